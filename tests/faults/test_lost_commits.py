"""A COMMIT that PostgreSQL has done and whose answer is lost: the caller is told 503, and whom the change concerns feels it nevertheless."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from httpx import AsyncClient, Response

from app.config import Settings
from app.models import Role, TokenPurpose
from app.services.changes import RENEW_STAMP
from tests.api.answers import accepted, refused
from tests.factories import PASSWORD, Factory, Person
from tests.faults.support import Proxy, changed, proxy_to, running
from tests.jobs.support import waiting

ME = "/api/v1/auth/me"
NEW_PASSWORD = "another long passphrase"

Change = Callable[[AsyncClient, Factory, Person, Person], Awaitable[Response]]


@pytest.fixture
async def losing(settings: Settings) -> AsyncIterator[tuple[Proxy, AsyncClient]]:
    """What is between PostgreSQL and an instance of the application, and a client of that."""
    async with proxy_to(settings.database_url.get_secret_value()) as (proxy, url), running(changed(settings, database_url=url)) as (_, client):
        yield proxy, client


async def demote(client: AsyncClient, _: Factory, admin: Person, person: Person) -> Response:
    return await client.patch(f"/api/v1/users/{person.user.id}", headers=admin.headers, json={"role": "viewer"})


async def deactivate(client: AsyncClient, _: Factory, admin: Person, person: Person) -> Response:
    return await client.patch(f"/api/v1/users/{person.user.id}", headers=admin.headers, json={"is_active": False})


async def delete(client: AsyncClient, _: Factory, admin: Person, person: Person) -> Response:
    return await client.delete(f"/api/v1/users/{person.user.id}", headers=admin.headers)


async def log_out(client: AsyncClient, _: Factory, __: Person, person: Person) -> Response:
    return await client.post("/api/v1/auth/logout", headers=person.headers)


async def reset_the_password(client: AsyncClient, factory: Factory, _: Person, person: Person) -> Response:
    token = await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD)
    return await client.post("/api/v1/auth/password/reset", json={"token": token, "password": NEW_PASSWORD})


async def change_the_password(client: AsyncClient, factory: Factory, _: Person, person: Person) -> Response:
    elsewhere = await factory.sign_in(person.tenant, person.user)
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    return await client.post("/api/v1/auth/password/change", headers=elsewhere.headers, json=body)


async def use_a_token_twice(client: AsyncClient, factory: Factory, _: Person, person: Person) -> Response:
    await factory.run("UPDATE sessions SET refresh_count = 1, refreshed_at = now() - interval '1 minute' WHERE id = :id", id=person.session_id)
    await factory.run("UPDATE sessions SET previous_token_hash = refresh_token_hash, refresh_token_hash = '' WHERE id = :id", id=person.session_id)
    return await client.post("/api/v1/auth/refresh", json={"refresh_token": person.refresh_token})


@pytest.mark.parametrize("change", [demote, deactivate, delete, log_out, reset_the_password, change_the_password, use_a_token_twice])
async def test_the_change_is_felt_by_every_server_with_the_next_request(
    losing: tuple[Proxy, AsyncClient], client: AsyncClient, factory: Factory, change: Change
) -> None:
    proxy, other = losing
    admin = await factory.person()
    person = await factory.person(admin.tenant, Role.MEMBER)
    for instance in (client, other):
        accepted(await instance.get(ME, headers=person.headers))
    # The job that tells of the change, as a worker would a moment later, travels in the same transaction.
    proxy.lose_answer_to(RENEW_STAMP.encode(), b"COMMIT")
    unanswered = await change(other, factory, admin, person)
    assert (unanswered.status_code, unanswered.json()["code"]) == (503, "database_unavailable")
    assert proxy.has_lost_it
    # It is committed, and no worker has been there.
    assert len([job for job, payload in await waiting(factory, RENEW_STAMP) if str(person.user.id).encode() in payload]) == 1
    then = (403, "forbidden") if change is demote else (401, "token_revoked")
    for instance in (client, other):
        refused(await instance.post("/api/v1/projects", headers=person.headers, json={"name": "Not any more"}), *then)
