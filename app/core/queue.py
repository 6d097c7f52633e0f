"""Puts jobs into the queue, on the caller's own transaction: a job exists exactly if what it is about was committed.

Jobs belong to no tenant's table, so a payload holds identifiers and numbers, and nothing that is a tenant's secret. `app/jobs/` does the work.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment, QueryQueueBuilder, QuerySchedulerBuilder
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.domain.settings import DBSettings
from sqlalchemy.ext.asyncio import AsyncSession

from app.utils.json import to_json

# PgQueuer's tables lie in a schema of their own, beside the tenants' tables.
QUEUE_SETTINGS = DBSettings(db_schema="jobs")


def queries_on(connection: Any) -> Queries:
    """Return PgQueuer's queries on an asyncpg connection."""
    return Queries(AsyncpgDriver(connection), QueryBuilderEnvironment(QUEUE_SETTINGS), QueryQueueBuilder(QUEUE_SETTINGS), QuerySchedulerBuilder(QUEUE_SETTINGS))


async def enqueue(session: AsyncSession, kind: str, payloads: Sequence[dict[str, Any]], tenant_ids: Sequence[UUID | None]) -> None:
    """Add jobs of one kind to the session's transaction, each about the tenant at the same place, or about none."""
    texts = [to_json({"tenant_id": tenant_id, **payload}) for payload, tenant_id in zip(payloads, tenant_ids, strict=True)]
    connection = (await (await session.connection()).get_raw_connection()).driver_connection
    await queries_on(connection).enqueue([kind] * len(texts), list(texts), [0] * len(texts))
