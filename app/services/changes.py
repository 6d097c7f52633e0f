"""Has every server learn of a change to a tenant or a user: at once by whoever made it, and by a job for the case that they could not.

The stamp (app/core/stamps.py) is renewed right after the transaction. Between the two a process may be killed, or have lost its way to Redis; so a job that
renews it once more is written in the transaction of the change itself.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.core.queue import enqueue
from app.core.stamps import Stamps

RENEW_STAMP = "renew_stamp"
# Whose session has ended is out at once, however much mail waits.
BEFORE_ALL_ELSE = 10


class Changes:
    """What a transaction changes of a tenant that servers remember."""

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        # None stands for the tenant itself.
        self.users: set[UUID | None] = set()

    async def announce(self, session: AsyncSession, user_id: UUID | None = None) -> None:
        """Have servers load the tenant, or one user of it, anew once the session's transaction has ended; by a worker too, once it is committed."""
        await enqueue(session, RENEW_STAMP, [change_of(user_id)], [self.tenant_id], priority=BEFORE_ALL_ELSE)
        self.users.add(user_id)


@asynccontextmanager
async def telling(stamps: Stamps, tenant_id: UUID) -> AsyncIterator[Changes]:
    """Renew the stamps of what is announced within the block. To be entered before the transaction, so that it has ended by then.

    Whichever way it ended: a COMMIT whose answer was lost may have been done, and a stamp that is renewed for nothing costs a query.
    """
    changes = Changes(tenant_id)
    try:
        yield changes
    finally:
        for user_id in changes.users:
            await stamps.renew(tenant_id, user_id)


def change_of(user_id: UUID | None) -> dict[str, UUID | None]:
    """Return the job's payload."""
    return {"user_id": user_id}
