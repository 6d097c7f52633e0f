"""The pool: SQLAlchemy's, out of which a reader takes a connection itself.

SQLAlchemy hands a connection out inside of a proxy that takes it back should it be forgotten, which costs as much as a query. Transactions for writing go
through it, because the session wants it; a reader cannot forget its connection (app.database gives it back), so it takes the pool's entry.
Both come out of the same queue, under the same limits.
"""

from typing import Any, cast

from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry
from sqlalchemy.util import greenlet_spawn


class ReadersPool(AsyncAdaptedQueuePool):
    """A pool that gives readers its entries, and everybody else proxies."""

    async def take(self) -> ConnectionPoolEntry:
        """Return an entry with a connection. Only where one has to be made or waited for is a greenlet needed, which takes as long as a query."""
        entry = self._do_get() if self.checkedin() else await greenlet_spawn(self._do_get)
        if entry.dbapi_connection is None:
            try:
                await greenlet_spawn(cast("Any", entry).get_connection)
            except BaseException:
                self._do_return_conn(entry)
                raise
        return entry

    async def give_back(self, entry: ConnectionPoolEntry, dead: bool) -> None:
        """Give an entry back. The connection of one that is `dead` is closed: its place is filled when it is taken the next time."""
        if dead:
            entry.invalidate()
        # One connection too many is closed in order, and that is a wait.
        if self.overflow() > 0:
            await greenlet_spawn(self._do_return_conn, entry)
        else:
            self._do_return_conn(entry)
