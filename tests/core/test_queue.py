"""Jobs are put into the queue on the caller's own transaction: there exactly if it was committed."""

import json
from uuid import uuid4

import pytest

from app.core.queue import enqueue, take_off_queue
from app.services.container import Services
from tests.factories import Factory


async def payloads(factory: Factory, kind: str) -> list[dict[str, str]]:
    rows = await factory.run("SELECT payload FROM jobs.pgqueuer WHERE entrypoint = :kind ORDER BY id", kind=kind)
    return [json.loads(payload) for (payload,) in rows]


async def test_a_job_exists_once_its_transaction_is_committed(services: Services, factory: Factory) -> None:
    kind, tenant = f"test {uuid4()}", await factory.tenant()
    async with services.database.transaction(tenant.id) as session:
        await enqueue(session, kind, [{"number": 1}, {"number": 2}], [tenant.id, None])
        assert await payloads(factory, kind) == []
    assert await payloads(factory, kind) == [{"tenant_id": str(tenant.id), "number": 1}, {"tenant_id": None, "number": 2}]


async def test_a_job_of_a_transaction_that_fails_never_exists(services: Services, factory: Factory) -> None:
    kind, tenant = f"test {uuid4()}", await factory.tenant()
    with pytest.raises(ZeroDivisionError):
        async with services.database.transaction(tenant.id) as session:
            await enqueue(session, kind, [{}], [tenant.id])
            raise ZeroDivisionError
    assert await payloads(factory, kind) == []


async def test_a_job_is_left_out_while_one_of_its_kind_about_the_same_tenant_waits(services: Services, factory: Factory) -> None:
    kind, tenants = f"test {uuid4()}", [(await factory.tenant()).id for _ in range(2)]
    for tenant_ids in ([tenants[0], None], [tenants[0], tenants[1], None]):
        async with services.database.transaction(None) as session:
            await enqueue(session, kind, [{}] * len(tenant_ids), tenant_ids, unless_waiting=True)
    assert [payload["tenant_id"] for payload in await payloads(factory, kind)] == [str(tenants[0]), None, str(tenants[1])]
    await factory.run("UPDATE jobs.pgqueuer SET status = 'failed' WHERE entrypoint = :kind", kind=kind)
    async with services.database.transaction(None) as session:
        await enqueue(session, kind, [{}], [None], unless_waiting=True)
    assert len(await payloads(factory, kind)) == 4


async def test_a_job_is_taken_off_the_queue_once(services: Services, factory: Factory) -> None:
    kind = f"test {uuid4()}"
    async with services.database.transaction(None) as session:
        await enqueue(session, kind, [{}], [None])
    ((number,),) = await factory.run("SELECT id FROM jobs.pgqueuer WHERE entrypoint = :kind", kind=kind)
    for there in (True, False):
        async with services.database.transaction(None) as session:
            assert await take_off_queue(session, number) is there
