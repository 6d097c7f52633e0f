"""The worker's own connection to PostgreSQL, over which PgQueuer takes jobs, ends them, and is told of new ones. It is made anew whenever it is lost."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import structlog
from pgqueuer.adapters.drivers.asyncpg import Relay
from pgqueuer.core.tm import TaskManager
from pgqueuer.ports.driver import Driver, NotifyCallback

from app.database import COMMAND_SECONDS
from app.database_faults import DatabaseFault, DatabaseUnavailable, faults

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

PAUSE_SECONDS = 1.0

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class QueueConnection(Driver):
    """Repeats each statement until PostgreSQL has answered it, so that an outage loses no job's end and stops no worker.

    PgQueuer's statements bear that: what was taken and is not known of is taken again when its heartbeat is old, and all others say what shall be.
    """

    def __init__(self, url: str, *, connect_timeout: float) -> None:
        """`url` is one for asyncpg itself and leads to PostgreSQL directly; `connect_timeout` is in seconds."""
        self._url = url
        self._connect_timeout = connect_timeout
        self._connection: Connection | None = None
        self._listeners: list[tuple[str, NotifyCallback]] = []
        self._lock = asyncio.Lock()
        self._shutdown = asyncio.Event()
        self._patient, self._was_connected = True, False

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        """Run a statement. Returns its rows."""
        return [dict(row) for row in await self._repeat(lambda connection: connection.fetch(query, *args))]

    async def execute(self, query: str, *args: object) -> str:
        """Run a statement. Returns its tag."""
        return await self._repeat(lambda connection: connection.execute(query, *args))

    async def notify(self, channel: str, payload: str) -> None:
        """Send a notification."""
        await self.execute("SELECT pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        """Have `callback` called with each notification, from this connection and from those that follow it."""
        await self._repeat(lambda connection: connection.add_listener(channel, Relay(callback)))
        self._listeners.append((channel, callback))

    def forget_listeners(self) -> None:
        """Give the connection up with all that listen on it; the next statement makes another."""
        self._listeners.clear()
        self._drop()

    def lose_patience(self) -> None:
        """From now on, raise `DatabaseFault` where PostgreSQL is away, instead of waiting for it."""
        self._patient = False

    async def close(self) -> None:
        """Close the connection, if it is there."""
        if self._connection is not None and not self._connection.is_closed():
            with suppress(DatabaseFault), faults:
                await self._connection.close(timeout=PAUSE_SECONDS)

    @property
    def shutdown(self) -> asyncio.Event:
        """Asked for by PgQueuer."""
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        """Asked for by PgQueuer."""
        return TaskManager()

    async def __aenter__(self) -> "QueueConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stay open: PgQueuer's managers share this connection."""

    async def _repeat(self, operation: Callable[["Connection"], Awaitable[Result]]) -> Result:
        async with self._lock:
            away = False
            while True:
                try:
                    with faults:
                        result = await operation(await self._connected())
                except DatabaseFault as fault:
                    if isinstance(fault, DatabaseUnavailable):
                        self._drop()
                    if not self._patient:
                        raise
                    if not away:
                        log.warning("the queue cannot be reached, will be tried again", error=type(fault).__name__)
                    away = True
                    await asyncio.sleep(PAUSE_SECONDS)
                else:
                    return result

    async def _connected(self) -> "Connection":
        if self._connection is None or self._connection.is_closed():
            connection = await asyncpg.connect(
                self._url, timeout=self._connect_timeout, command_timeout=COMMAND_SECONDS, server_settings={"application_name": "saas-worker"}
            )
            if self._was_connected:
                log.info("the queue is back")
            self._connection, self._was_connected = connection, True
            for channel, callback in self._listeners:
                await connection.add_listener(channel, Relay(callback))
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
