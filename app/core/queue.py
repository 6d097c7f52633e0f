"""Puts jobs into the queue, on the caller's own transaction: a job exists exactly if what it is about was committed.

Jobs belong to no tenant's table, so a payload holds identifiers and numbers, and nothing that is a tenant's secret. `app/jobs/` does the work.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.settings import DBSettings
from pgqueuer.ports.driver import Driver
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.utils.json import to_json

# PgQueuer's tables lie in a schema of their own, beside the tenants' tables.
QUEUE_SETTINGS = DBSettings(db_schema="jobs")

# PgQueuer's own statement, with its parameters as psycopg2 writes them.
ENQUEUE = QueryQueueBuilder(QUEUE_SETTINGS).build_enqueue_query()
for _number, _name in enumerate(("priority", "kind", "payload", "pause", "key", "headers"), start=1):
    ENQUEUE = ENQUEUE.replace(f"${_number}", f"%({_name})s")

UNCOUNT = text("UPDATE jobs.pgqueuer SET attempts = attempts - 1 WHERE id = :job_id")
TAKE_OFF = text("DELETE FROM jobs.pgqueuer WHERE id = :job_id RETURNING id")


def queries_on(driver: Driver) -> Queries:
    """Return PgQueuer's queries on a connection."""
    return Queries(driver, QueryBuilderEnvironment(QUEUE_SETTINGS), QueryQueueBuilder(QUEUE_SETTINGS), QuerySchedulerBuilder(QUEUE_SETTINGS))


async def enqueue(
    session: AsyncSession, kind: str, payloads: Sequence[dict[str, Any]], tenant_ids: Sequence[UUID | None], *, unless_waiting: bool = False, priority: int = 0
) -> None:
    """Add jobs of one kind to the session's transaction, each about the tenant at the same place, or about none.

    With `unless_waiting`, a job is left out while one of this kind about the same tenant (or about none) waits or is being done. Those of a higher
    `priority` are done first.
    """
    texts = [to_json({**payload, "tenant_id": tenant_id}) for payload, tenant_id in zip(payloads, tenant_ids, strict=True)]
    keys: list[str | None] = [f"{kind} {tenant_id}" if unless_waiting else None for tenant_id in tenant_ids]
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    queries = queries_on(AsyncpgDriver(connection))  # type: ignore[arg-type]  # SQLAlchemy does not know which driver it has
    await queries.enqueue([kind] * len(texts), list(texts), [priority] * len(texts), dedupe_key=keys, on_conflict="skip")


def enqueue_on(connection: Connection, kind: str, payload: dict[str, Any], tenant_id: UUID, *, priority: int) -> None:
    """Add a job about a tenant to the transaction of the command line's connection."""
    content = to_json({**payload, "tenant_id": tenant_id})
    values = {"priority": [priority], "kind": [kind], "payload": [content], "pause": [timedelta(0)], "key": [None], "headers": [None]}
    connection.exec_driver_sql(ENQUEUE, values)


async def take_off_queue(session: AsyncSession, job_id: int) -> bool:
    """Remove a job in the session's transaction. Returns whether it was still there; waits for whoever is removing it at this moment."""
    return (await session.execute(TAKE_OFF, {"job_id": job_id})).scalar_one_or_none() is not None


async def uncount_attempt(session: AsyncSession, job_id: int) -> None:
    """Have the attempt that PgQueuer is about to count not be one."""
    await session.execute(UNCOUNT, {"job_id": job_id})
