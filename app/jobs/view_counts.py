"""Carries buffered project views from Redis to PostgreSQL: none lost and none added twice, wherever a worker is killed.

A batch is split off in Redis by renaming, under an identifier. One transaction records that identifier and enqueues a job for each tenant, so a batch
that is taken up again, after a kill between that commit and the batch's end in Redis, enqueues nothing. A tenant's job adds its views in the transaction
that takes it off the queue.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, Uuid, bindparam, func, update
from sqlalchemy.dialects.postgresql import insert

from app.core.queue import enqueue
from app.core.redis import RedisAway
from app.core.view_counts import BATCH_KEY, PENDING_KEY
from app.jobs.registry import TenantJob, WorldwideJob, tenant_job, worldwide_job
from app.models import Project, ViewBatch, new_id
from app.utils import metrics

FLUSH_VIEW_COUNTS, ADD_VIEWS = "flush_view_counts", "add_views"

TAKE_BATCH = """
if redis.call('EXISTS', KEYS[2]) == 0 then
    if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
    redis.call('RENAME', KEYS[1], KEYS[2])
    redis.call('HSET', KEYS[2], 'batch', ARGV[1])
end
return redis.call('HGETALL', KEYS[2])
"""
DROP_BATCH = "if redis.call('HGET', KEYS[1], 'batch') == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
# A batch may hold every project of every tenant.
REDIS_SECONDS = 10.0
PROJECTS_IN_A_JOB, JOBS_IN_A_STATEMENT = 1000, 100

Item = TypeVar("Item")


@worldwide_job(FLUSH_VIEW_COUNTS)
async def flush_view_counts(job: WorldwideJob, payload: dict[str, Any]) -> None:
    """Turn one batch into jobs. Without Redis there is nothing to be done: the views wait for the next time."""
    redis = job.tools.redis
    try:
        flat = await redis.call(lambda client: client.eval(TAKE_BATCH, 2, PENDING_KEY, BATCH_KEY, str(new_id())), REDIS_SECONDS)
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        if fields:
            batch = fields.pop(b"batch")
            await _enqueue(job, UUID(batch.decode()), fields)
            await redis.call(lambda client: client.eval(DROP_BATCH, 1, BATCH_KEY, batch), REDIS_SECONDS)
    except RedisAway:
        return


async def _enqueue(job: WorldwideJob, batch: UUID, fields: dict[bytes, bytes]) -> None:
    """Enqueue the jobs of a batch, once for each batch, however often this is called."""
    views: defaultdict[UUID, dict[str, int]] = defaultdict(dict)
    for field, count in fields.items():
        tenant, _, project = field.decode().partition(":")
        views[UUID(tenant)][project] = int(count)
    parts = [(tenant_id, dict(part)) for tenant_id, counts in views.items() for part in _chunks(counts.items(), PROJECTS_IN_A_JOB)]
    async with job.transaction() as session:
        recorded = insert(ViewBatch).values(id=batch).on_conflict_do_nothing().returning(ViewBatch.id)
        if (await session.execute(recorded)).scalar_one_or_none() is None:
            return
        for chunk in _chunks(parts, JOBS_IN_A_STATEMENT):
            await enqueue(session, ADD_VIEWS, [{"counts": counts} for _, counts in chunk], [tenant_id for tenant_id, _ in chunk])


def _chunks(items: Iterable[Item], size: int) -> list[list[Item]]:
    listed = list(items)
    return [listed[start : start + size] for start in range(0, len(listed), size)]


@tenant_job(ADD_VIEWS)
async def add_views(job: TenantJob, payload: dict[str, Any]) -> None:
    """Add the views of one tenant's projects. Those of projects that are no more are dropped."""
    counts = {UUID(project): views for project, views in payload["counts"].items()}
    given = (
        func.unnest(bindparam("ids", list(counts), type_=ARRAY(Uuid(as_uuid=True))), bindparam("views", list(counts.values()), type_=ARRAY(BigInteger)))
        .table_valued("id", "views", name="given")
        .render_derived()
    )
    async with job.final_transaction() as session:
        await session.execute(
            update(Project)
            .where(Project.tenant_id == job.tenant_id, Project.id == given.c.id)
            .values(view_count=Project.view_count + given.c.views)
            .execution_options(synchronize_session=False)
        )
    metrics.VIEWS_FLUSHED.inc(sum(counts.values()))
