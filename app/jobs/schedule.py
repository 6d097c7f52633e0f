"""What is done again and again: each tick puts one job into the queue, once however many workers run.

PgQueuer keeps the next time of each tick in a row that one worker takes. A job that has not been done by its next tick is not enqueued a second time.
"""

from collections.abc import Awaitable, Callable

import structlog
from pgqueuer.core.sm import SchedulerManager
from pgqueuer.domain.models import Schedule

from app.config import Settings
from app.core.queue import enqueue
from app.database_faults import DatabaseFault
from app.jobs.purge import PURGE_TENANTS, PURGE_WORLDWIDE
from app.jobs.registry import WorldwideJob
from app.jobs.view_counts import FLUSH_VIEW_COUNTS

log = structlog.get_logger(__name__)


def schedule_of(settings: Settings) -> dict[str, str]:
    """Return the kinds of worldwide jobs that are enqueued by the clock, with their cron expressions in UTC. A sixth field is seconds."""
    seconds = settings.view_flush_seconds
    return {
        FLUSH_VIEW_COUNTS: f"* * * * * {'0' if seconds == 60 else f'*/{seconds}'}",
        PURGE_WORLDWIDE: "23 * * * *",
        PURGE_TENANTS: "17 3 * * *",
    }


def add_schedule(manager: SchedulerManager, schedule: dict[str, str], context: WorldwideJob) -> None:
    """Have the manager enqueue the schedule's jobs."""
    for kind, expression in schedule.items():
        manager.schedule(kind, expression)(_ticker(kind, context))


def _ticker(kind: str, context: WorldwideJob) -> Callable[[Schedule], Awaitable[None]]:
    async def tick(_: Schedule) -> None:
        try:
            async with context.transaction() as session:
                await enqueue(session, kind, [{}], [None], unless_waiting=True)
        except DatabaseFault as fault:
            log.warning("tick missed, the next one will do", kind=kind, error=type(fault).__name__)

    return tick
