"""Jobs are put into the queue on the caller's own transaction: there exactly if it was committed."""

import json
from uuid import uuid4

import pytest

from app.core.queue import enqueue
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
