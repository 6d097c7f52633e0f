"""A worker with kinds of jobs for tests alone. It takes over after a second, and has two to finish what it holds.

What these jobs do can be counted: each adds to a counter in Redis as it begins, and renames its tenant's project as its effect.
"""

import asyncio
import sys
from typing import Any

from sqlalchemy import select, update

from app.jobs.registry import GiveUp, TenantJob, WorldwideJob, tenant_job, worldwide_job
from app.jobs.worker import Pace, main
from app.models import Project

PACES = {
    "quick": Pace(heartbeat=1.0, poll=0.3, deadline=2.0, latest=6.0),
    "usual": Pace(),
    # It looks for jobs only when it is told of one.
    "sleepy": Pace(heartbeat=3600.0, poll=3600.0),
}


async def _begin(job: TenantJob | WorldwideJob, payload: dict[str, Any]) -> int:
    """Count this attempt, under the payload's key. Returns how many there have been."""
    return int(await job.tools.redis.call(lambda client: client.incr(payload["key"]), 5.0))


@tenant_job("test_add")
async def add(job: TenantJob, payload: dict[str, Any]) -> None:
    """Take some time, and add one view to each of the tenant's projects that can be seen."""
    attempt = await _begin(job, payload)
    await asyncio.sleep(payload["seconds"] if attempt == 1 or payload.get("always") else 0)
    async with job.final_transaction() as session:
        visible = await session.scalars(select(Project.tenant_id).where(Project.tenant_id == Project.tenant_id))
        if set(visible) - {job.tenant_id}:
            raise GiveUp
        await session.execute(update(Project).where(Project.tenant_id == job.tenant_id).values(view_count=Project.view_count + 1))


@worldwide_job("test_fail")
async def fail(job: WorldwideJob, payload: dict[str, Any]) -> None:
    """Fail so many times, with a text that is nobody's business."""
    if await _begin(job, payload) <= payload["times"]:
        raise ConnectionRefusedError("somebody.secret@example.com was refused: hunter2")


@worldwide_job("test_give_up")
async def give_up(job: WorldwideJob, payload: dict[str, Any]) -> None:
    """Fail for good."""
    await _begin(job, payload)
    raise GiveUp("somebody.secret@example.com: hunter2")


if __name__ == "__main__":
    main(PACES[sys.argv[1] if sys.argv[1:] else "quick"])
