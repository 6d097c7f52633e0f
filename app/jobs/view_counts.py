"""Carries buffered project views from Redis to PostgreSQL: none lost and none added twice, wherever the process is killed.

A batch is split off in Redis by renaming, under an identifier. Each tenant's part is added in one transaction that also records the identifier, so a
batch that is taken up again after a kill adds only what it had not. One batch is under way at a time; several workers may work on it at once.
"""

import asyncio
from collections import defaultdict
from datetime import timedelta
from uuid import UUID

import structlog
from sqlalchemy import ARRAY, BigInteger, Uuid, bindparam, delete, func, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.core.redis import RedisGateway
from app.core.view_counts import BATCH_KEY, PENDING_KEY
from app.database import Database
from app.models import Project, ViewCountBatch, new_id
from app.utils import metrics

TAKE_BATCH = """
if redis.call('EXISTS', KEYS[2]) == 0 then
    if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
    redis.call('RENAME', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[2], 'batch', ARGV[1])
end
return redis.call('HGETALL', KEYS[2])
"""
# A batch may hold every project of every tenant.
REDIS_SECONDS = 10.0
# A worker that was held up for longer leaves its batch to others, who may have forgotten by then that it was added.
BATCH_SECONDS = 1800.0

DROP_BATCH = "if redis.call('HGET', KEYS[1], 'batch') == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

log = structlog.get_logger(__name__)


async def flush_view_counts(database: Database, redis: RedisGateway) -> int:
    """Write one batch. Returns how many views were added by this call. Raises `DatabaseFault` and `RedisAway`; then call again later."""
    flat = await redis.call(lambda client: client.eval(TAKE_BATCH, 2, PENDING_KEY, BATCH_KEY, str(new_id())), REDIS_SECONDS)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if not fields:
        return 0
    batch = fields.pop(b"batch")
    views: defaultdict[UUID, dict[UUID, int]] = defaultdict(dict)
    for field, count in fields.items():
        tenant, _, project = field.decode().partition(":")
        views[UUID(tenant)][UUID(project)] = int(count)
    added = 0
    async with asyncio.timeout(BATCH_SECONDS):
        for tenant_id, counts in views.items():
            try:
                async with database.transaction(tenant_id) as session:
                    added += await _add(session, tenant_id, UUID(batch.decode()), counts)
            except IntegrityError:
                log.info("views of a tenant that is no more were dropped", tenant_id=str(tenant_id))
    await redis.call(lambda client: client.eval(DROP_BATCH, 1, BATCH_KEY, batch), REDIS_SECONDS)
    metrics.VIEWS_FLUSHED.inc(added)
    return added


async def _add(session: AsyncSession, tenant_id: UUID, batch: UUID, counts: dict[UUID, int]) -> int:
    record = insert(ViewCountBatch).values(tenant_id=tenant_id, id=batch).on_conflict_do_nothing().returning(ViewCountBatch.id)
    if (await session.execute(record)).scalar_one_or_none() is None:
        return 0
    # Nobody who holds an older batch is still allowed to add it.
    kept = func.now() - timedelta(seconds=2 * BATCH_SECONDS)
    await session.execute(delete(ViewCountBatch).where(ViewCountBatch.tenant_id == tenant_id, ViewCountBatch.created_at < kept))
    given = (
        func.unnest(bindparam("ids", list(counts), type_=ARRAY(Uuid(as_uuid=True))), bindparam("views", list(counts.values()), type_=ARRAY(BigInteger)))
        .table_valued("id", "views", name="given")
        .render_derived()
    )
    await session.execute(
        update(Project)
        .where(Project.tenant_id == tenant_id, Project.id == given.c.id)
        .values(view_count=Project.view_count + given.c.views)
        .execution_options(synchronize_session=False)
    )
    return sum(counts.values())
