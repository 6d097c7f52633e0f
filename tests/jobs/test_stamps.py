"""A change that its server could not tell of, because it died or lost Redis right after the commit, is told by a worker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from httpx import AsyncClient

from app.config import Settings
from app.core.redis import RedisAway
from app.models import Role, TokenPurpose, new_id
from app.services.changes import RENEW_STAMP
from app.services.container import Services
from app.services.mail import SEND_MAIL
from tests.api.answers import accepted, refused
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import changed, environment_of, eventually, process, run_cli, running
from tests.jobs.support import WORKER, add, dispatcher_of, waiting

ME = "/api/v1/auth/me"
NEW_PASSWORD = "another long passphrase"

Change = Callable[[AsyncClient, Factory, Person, Person], Awaitable[None]]


@pytest.fixture
async def mute(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    """A client of an instance that dies after each commit, as far as others can tell."""

    async def die(*_: object) -> None:
        return

    async with running(settings) as (app, client):
        services: Services = app.state.services
        monkeypatch.setattr(services.stamps, "renew", die)
        yield client


async def demote(client: AsyncClient, _: Factory, admin: Person, person: Person) -> None:
    accepted(await client.patch(f"/api/v1/users/{person.user.id}", headers=admin.headers, json={"role": "viewer"}))


async def deactivate(client: AsyncClient, _: Factory, admin: Person, person: Person) -> None:
    accepted(await client.patch(f"/api/v1/users/{person.user.id}", headers=admin.headers, json={"is_active": False}))


async def delete(client: AsyncClient, _: Factory, admin: Person, person: Person) -> None:
    accepted(await client.delete(f"/api/v1/users/{person.user.id}", headers=admin.headers), 204)


async def log_out(client: AsyncClient, _: Factory, __: Person, person: Person) -> None:
    accepted(await client.post("/api/v1/auth/logout", headers=person.headers), 204)


async def log_out_everywhere(client: AsyncClient, factory: Factory, _: Person, person: Person) -> None:
    elsewhere = await factory.sign_in(person.tenant, person.user)
    accepted(await client.post("/api/v1/auth/logout-all", headers=elsewhere.headers), 204)


async def end_the_session(client: AsyncClient, factory: Factory, _: Person, person: Person) -> None:
    elsewhere = await factory.sign_in(person.tenant, person.user)
    accepted(await client.delete(f"/api/v1/auth/sessions/{person.session_id}", headers=elsewhere.headers), 204)


async def change_the_password(client: AsyncClient, factory: Factory, _: Person, person: Person) -> None:
    elsewhere = await factory.sign_in(person.tenant, person.user)
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    accepted(await client.post("/api/v1/auth/password/change", headers=elsewhere.headers, json=body), 204)


async def reset_the_password(client: AsyncClient, factory: Factory, _: Person, person: Person) -> None:
    token = await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD)
    accepted(await client.post("/api/v1/auth/password/reset", json={"token": token, "password": NEW_PASSWORD}), 204)


async def use_a_token_twice(client: AsyncClient, factory: Factory, _: Person, person: Person) -> None:
    accepted(await client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token}))
    await factory.run("UPDATE sessions SET refreshed_at = now() - interval '1 minute' WHERE id = :id", id=person.session_id)
    refused(await client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token}), 401, "refresh_token_reused")


async def do_the_jobs(services: Services, factory: Factory) -> int:
    """Do the jobs that tell of changes, as a worker with these services. Returns how many there were."""
    jobs = await waiting(factory, RENEW_STAMP)
    for number, payload in jobs:
        await dispatcher_of(services).dispatch(RENEW_STAMP, number, payload)
    return len(jobs)


@pytest.mark.parametrize(
    "change",
    [deactivate, delete, log_out, log_out_everywhere, end_the_session, change_the_password, reset_the_password, use_a_token_twice],
)
async def test_the_end_of_a_session_is_told_by_its_job_alone(
    mute: AsyncClient, client: AsyncClient, services: Services, factory: Factory, change: Change
) -> None:
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    accepted(await client.get(ME, headers=person.headers))
    await change(mute, factory, admin, person)
    # What this is all about: the other server knows of nothing.
    accepted(await client.get(ME, headers=person.headers))
    assert await do_the_jobs(services, factory) == 1
    refused(await client.get(ME, headers=person.headers), 401, "token_revoked")


async def test_a_role_change_is_told_by_its_job_alone(mute: AsyncClient, client: AsyncClient, services: Services, factory: Factory) -> None:
    admin = await factory.person()
    member = await factory.person(admin.tenant, Role.MEMBER)
    accepted(await client.get(ME, headers=member.headers))
    await demote(mute, factory, admin, member)
    await do_the_jobs(services, factory)
    refused(await client.post("/api/v1/projects", headers=member.headers, json={"name": "Not any more"}), 403, "forbidden")


async def test_a_verified_address_is_told_by_its_job_alone(mute: AsyncClient, client: AsyncClient, services: Services, factory: Factory) -> None:
    person = await factory.person()
    assert not accepted(await client.get(ME, headers=person.headers))["user"]["email_verified"]
    token = await factory.mailed_token(person.user, TokenPurpose.VERIFY_EMAIL)
    accepted(await mute.post("/api/v1/auth/verify-email", json={"token": token}), 204)
    await do_the_jobs(services, factory)
    assert accepted(await client.get(ME, headers=person.headers))["user"]["email_verified"]


async def test_a_tenant_s_new_name_is_told_by_its_job_alone(mute: AsyncClient, client: AsyncClient, services: Services, factory: Factory) -> None:
    admin = await factory.person()
    accepted(await client.get(ME, headers=admin.headers))
    accepted(await mute.patch("/api/v1/tenant", headers=admin.headers, json={"name": "Renamed"}))
    await do_the_jobs(services, factory)
    assert accepted(await client.get(ME, headers=admin.headers))["tenant"]["name"] == "Renamed"


@pytest.mark.parametrize(
    ("by", "method", "path", "body", "first", "again", "then"),
    [
        ("admin", "PATCH", "/api/v1/users/{user_id}", {"role": "viewer"}, 200, 200, (403, "forbidden")),
        ("admin", "PATCH", "/api/v1/users/{user_id}", {"is_active": False}, 200, 200, (401, "token_revoked")),
        ("admin", "DELETE", "/api/v1/users/{user_id}", None, 204, 404, (401, "token_revoked")),
        ("user", "DELETE", "/api/v1/auth/sessions/{session_id}", None, 204, 404, (401, "token_revoked")),
    ],
)
async def test_a_change_is_told_when_it_is_asked_for_again_though_it_is_none_any_more(
    mute: AsyncClient,
    client: AsyncClient,
    settings: Settings,
    factory: Factory,
    by: str,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    first: int,
    again: int,
    then: tuple[int, str],
) -> None:
    """Whoever got no answer, because the server died, asks another one."""
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    caller = admin if by == "admin" else await factory.sign_in(person.tenant, person.user)
    accepted(await client.get(ME, headers=person.headers))
    path = path.format(user_id=person.user.id, session_id=person.session_id)
    async with running(settings) as (_, third):
        for server, status in ((mute, first), (third, again)):
            assert (await server.request(method, path, headers=caller.headers, json=body)).status_code == status
    refused(await client.post("/api/v1/projects", headers=person.headers, json={"name": "Not any more"}), *then)


async def test_a_change_is_told_before_any_mail_that_waits(mute: AsyncClient, services: Services, factory: Factory) -> None:
    person = await factory.person()
    await add(services, SEND_MAIL, *({"mail_id": new_id()} for _ in range(3)), tenant_id=person.tenant.id)
    await log_out(mute, factory, person, person)
    order = await factory.run("SELECT entrypoint FROM jobs.pgqueuer ORDER BY priority DESC, id")
    assert [kind for (kind,) in order] == [RENEW_STAMP, *[SEND_MAIL] * 3]


async def test_what_was_rolled_back_is_told_to_nobody(client: AsyncClient, factory: Factory) -> None:
    admin = await factory.person()
    refused(await client.patch(f"/api/v1/users/{admin.user.id}", headers=admin.headers, json={"is_active": False}), 409, "last_admin")
    assert await waiting(factory, RENEW_STAMP) == []


async def test_an_operator_s_suspension_without_redis_is_told_by_a_worker(client: AsyncClient, settings: Settings, factory: Factory, tmp_path: Path) -> None:
    person = await factory.person()
    accepted(await client.get(ME, headers=person.headers))
    away = environment_of(settings, redis_url="redis://127.0.0.1:1/0")
    said = await asyncio.to_thread(run_cli, tmp_path, away, "tenants", "suspend", person.tenant.slug)
    assert "Redis could not be told. A worker will do it" in " ".join(said.split())
    accepted(await client.get(ME, headers=person.headers))
    with process(tmp_path / "worker", WORKER, environment_of(settings)):

        async def is_done() -> bool:
            return await waiting(factory, RENEW_STAMP) == []

        await eventually(is_done)
    refused(await client.get(ME, headers=person.headers), 403, "tenant_inactive")


async def test_while_redis_is_away_the_job_is_not_done(settings: Settings, client: AsyncClient, factory: Factory) -> None:
    person = await factory.person()
    accepted(await client.post("/api/v1/auth/logout", headers=person.headers), 204)
    async with running(changed(settings, redis_url="redis://127.0.0.1:1/0")) as (app, _):
        with pytest.raises(RedisAway):
            await do_the_jobs(app.state.services, factory)
