"""What is due is deleted, and nothing else, in batches of bounded size."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from app.core.derived_tokens import token_hash
from app.jobs import purge
from app.jobs.purge import PURGE_TENANT, PURGE_TENANTS, PURGE_WORLDWIDE
from app.models import MailState, Project, Tenant, TokenPurpose
from app.services.container import Services
from app.services.mail import SEND_MAIL
from app.utils.json import to_json
from tests.factories import Factory
from tests.jobs.support import add, dispatcher_of, waiting


def ago(**time: float) -> datetime:
    return datetime.now(UTC) - timedelta(**time)


async def purge_tenant(services: Services, tenant: Tenant) -> None:
    await dispatcher_of(services).dispatch(PURGE_TENANT, 0, to_json({"tenant_id": tenant.id}))


async def deleted_project(factory: Factory, tenant: Tenant, **time: float) -> Project:
    return await factory.project(tenant, is_deleted=True, deleted_at=ago(**time))


async def count(factory: Factory, table: str, tenant: Tenant) -> int:
    ((number,),) = await factory.run(f"SELECT count(*) FROM {table} WHERE tenant_id = :id", id=tenant.id)
    return int(number)


async def test_projects_past_restoring_go_with_their_resources_and_the_others_stay(services: Services, factory: Factory) -> None:
    tenant, other = await factory.tenant(), await factory.tenant()
    due, recoverable, alive = await deleted_project(factory, tenant, days=31), await deleted_project(factory, tenant, days=29), await factory.project(tenant)
    foreign = await deleted_project(factory, other, days=31)
    for project in (due, due, recoverable, alive, foreign):
        await factory.resource(project)
    await purge_tenant(services, tenant)
    assert set(await factory.run("SELECT id FROM projects WHERE tenant_id = :id", id=tenant.id)) == {(recoverable.id,), (alive.id,)}
    assert set(await factory.run("SELECT project_id FROM resources WHERE tenant_id = :id", id=tenant.id)) == {(recoverable.id,), (alive.id,)}
    assert (await count(factory, "projects", other), await count(factory, "resources", other)) == (1, 1)


async def test_a_project_that_may_be_purged_cannot_be_restored(client: AsyncClient, factory: Factory) -> None:
    """It would come back in halves."""
    person = await factory.person()
    due, recoverable = [await deleted_project(factory, person.tenant, days=days) for days in (30.01, 29.99)]
    answers = [await client.post(f"/api/v1/projects/{project.id}/restore", headers=person.headers) for project in (due, recoverable)]
    assert [answer.status_code for answer in answers] == [404, 200]


async def test_what_has_expired_goes_and_what_has_not_stays(services: Services, factory: Factory) -> None:
    person = await factory.person()
    tenant = person.tenant
    for expires_at in (ago(minutes=1), ago(minutes=-5)):
        await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD, expires_at=expires_at)
        await factory.invitation(tenant, expires_at=expires_at)
    for finished_at in (ago(days=31), ago(days=29)):
        await factory.mail(tenant, state=MailState.SENT, finished_at=finished_at)
        await factory.mail(tenant, state=MailState.DROPPED, finished_at=finished_at)
        await factory.mail(tenant, state=MailState.REFUSED, finished_at=finished_at)
    waiting_long = await factory.mail(tenant, created_at=ago(days=60))
    await add(services, SEND_MAIL, {"mail_id": waiting_long.id}, tenant_id=tenant.id)
    await purge_tenant(services, tenant)
    assert [await count(factory, table, tenant) for table in ("one_time_tokens", "invitations", "mails")] == [1, 1, 4]


async def test_a_mail_whose_job_is_gone_goes_after_thirty_days(services: Services, factory: Factory) -> None:
    tenant, other = await factory.tenant(), await factory.tenant()
    mails = {
        "failed": await factory.mail(tenant, created_at=ago(days=31)),
        "orphaned": await factory.mail(tenant, created_at=ago(days=31)),
        "recent": await factory.mail(tenant, created_at=ago(days=29)),
        "foreign": await factory.mail(other, created_at=ago(days=31)),
    }
    await add(services, SEND_MAIL, {"mail_id": mails["failed"].id}, tenant_id=tenant.id)
    await factory.run("UPDATE jobs.pgqueuer SET status = 'failed'")
    await factory.run(
        "INSERT INTO jobs.pgqueuer (priority, status, entrypoint, payload) VALUES (0, 'failed', :kind, '\\xff'), (0, 'failed', :kind, NULL)", kind=SEND_MAIL
    )
    await purge_tenant(services, tenant)
    left = {mail_id for (mail_id,) in await factory.run("SELECT id FROM mails WHERE tenant_id IN (:one, :other)", one=tenant.id, other=other.id)}
    assert left == {mails[name].id for name in ("failed", "recent", "foreign")}


async def test_a_link_that_has_reset_a_password_stays_for_an_hour_as_it_tells_where_its_user_is_known(services: Services, factory: Factory) -> None:
    person = await factory.person()
    tokens = {
        used: await factory.mailed_token(person.user, TokenPurpose.RESET_PASSWORD, expires_at=ago(minutes=1), used_at=ago(minutes=used)) for used in (59, 61)
    }
    await purge_tenant(services, person.tenant)
    rows = await factory.run("SELECT token_hash FROM one_time_tokens WHERE user_id = :id", id=person.user.id)
    assert rows == [(token_hash(tokens[59]),)]


@pytest.mark.parametrize(
    "values, goes",
    [
        ({"expires_at": ago(days=91)}, True),
        ({"expires_at": ago(days=89)}, False),
        ({"expires_at": ago(days=-1), "revoked_at": ago(days=91)}, True),
        ({"expires_at": ago(days=-1), "revoked_at": ago(days=89)}, False),
    ],
)
async def test_sessions_stay_for_ninety_days_after_their_end(services: Services, factory: Factory, values: dict[str, Any], goes: bool) -> None:
    person = await factory.person()
    changes = ", ".join(f"{name} = :{name}" for name in values)
    await factory.run(f"UPDATE sessions SET {changes} WHERE id = :id", id=person.session_id, **values)
    await purge_tenant(services, person.tenant)
    assert await count(factory, "sessions", person.tenant) == (0 if goes else 1)


async def test_a_purge_goes_on_until_nothing_is_due_in_batches(services: Services, factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "BATCH", 2)
    tenant = await factory.tenant()
    project = await deleted_project(factory, tenant, days=31)
    for _ in range(5):
        await factory.resource(project)
    begin, transactions = services.database.transaction, 0

    def counted(tenant_id: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return begin(tenant_id)

    monkeypatch.setattr(services.database, "transaction", counted)
    await purge_tenant(services, tenant)
    assert transactions == 3 + 6
    assert (await count(factory, "projects", tenant), await count(factory, "resources", tenant)) == (0, 0)


async def test_each_tenant_gets_one_job_and_no_second_while_that_waits(services: Services, factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "BATCH", 3)
    tenants = [await factory.tenant(is_active=number > 0) for number in range(7)]
    for _ in range(2):
        await dispatcher_of(services).dispatch(PURGE_TENANTS, 0, b"{}")
    payloads = [payload for _, payload in await waiting(factory, PURGE_TENANT)]
    assert len(payloads) == len(set(payloads))
    assert {bytes(to_json({"tenant_id": tenant.id})) for tenant in tenants} <= set(payloads)
    ((everybody,),) = await factory.run("SELECT count(*) FROM tenants")
    assert len(payloads) == everybody


async def test_what_belongs_to_no_tenant_is_purged(services: Services, factory: Factory) -> None:
    await factory.run("DELETE FROM spent_challenges")
    for interval in ("-1 minute", "5 minutes"):
        await factory.run(f"INSERT INTO spent_challenges (digest, expires_at) VALUES (:digest, now() + interval '{interval}')", digest=uuid4().bytes)
    log = (
        "INSERT INTO jobs.pgqueuer_log (job_id, created, status, priority, entrypoint, traceback) "
        "VALUES (:job, now() - CAST(:age AS interval), 'queued', 0, 'x', {})"
    )
    await factory.run("INSERT INTO jobs.pgqueuer (id, priority, status, entrypoint) VALUES (1, 0, 'failed', 'x')")
    for job, age in ((1, "8 days"), (2, "8 days"), (2, "6 days")):
        await factory.run(log.format('\'{"exception_message": "OSError"}\''), job=job, age=timedelta(days=int(age[0])))
    for minutes in (61, 59):
        await factory.run(log.format("NULL"), job=1, age=timedelta(minutes=minutes))
    await dispatcher_of(services).dispatch(PURGE_WORLDWIDE, 0, b"{}")
    assert await factory.run("SELECT count(*) FROM spent_challenges") == [(1,)]
    kept = await factory.run("SELECT job_id, traceback IS NULL, extract(day FROM now() - created)::int FROM jobs.pgqueuer_log ORDER BY created")
    assert kept == [(1, False, 8), (2, False, 6), (1, True, 0)]
