"""Has every server learn of a change to a tenant or a user: at once by whoever made it, and by a job for the case that they could not.

The stamp (app/core/stamps.py) is renewed right after the commit. Between the two a process may be killed, or have lost its way to Redis; so a job that
renews it once more is written in the transaction of the change itself.
"""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.core.queue import enqueue

RENEW_STAMP = "renew_stamp"
# Whose session has ended is out at once, however much mail waits.
BEFORE_ALL_ELSE = 10


async def announce(session: AsyncSession, tenant_id: UUID, user_id: UUID | None = None) -> None:
    """Have a worker renew the stamp of the tenant, or of one user of it, once the session's transaction is committed.

    Whoever calls also calls `Stamps.renew` after the commit, so that the change is felt at once, worker or not; endpoints do both by `Context.changed`.
    """
    await enqueue(session, RENEW_STAMP, [change_of(user_id)], [tenant_id], priority=BEFORE_ALL_ELSE)


def change_of(user_id: UUID | None) -> dict[str, UUID | None]:
    """Return the job's payload."""
    return {"user_id": user_id}
