"""Two transactions that meet exactly where a test wants them to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

import asyncpg

Result = TypeVar("Result")

PATIENCE_SECONDS = 30.0
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))"


@asynccontextmanager
async def statement_not_yet_committed(owner_url: str, statement: str, *arguments: object) -> AsyncIterator["NotYetCommitted"]:
    """Run a statement in a transaction of another client, and leave it to the test when it is committed."""
    first, second = await asyncpg.connect(owner_url), await asyncpg.connect(owner_url)
    try:
        await first.execute("BEGIN")
        await first.execute(statement, *arguments)
        yield NotYetCommitted(first, second)
    finally:
        await first.close()
        await second.close()


class NotYetCommitted:
    """A transaction that others may have to wait for."""

    def __init__(self, transaction: "asyncpg.Connection[asyncpg.Record]", observer: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._transaction = transaction
        self._observer = observer

    async def commit_while(self, request: Awaitable[Result], *before_that: tuple[str, object]) -> Result:
        """Begin the request, and as soon as it waits for a lock or is done, run further statements and commit. Returns the request's result."""
        task = await self.begin(request)
        for statement in before_that:
            await self._transaction.execute(*statement)
        await self._transaction.execute("COMMIT")
        return await task

    async def begin(self, request: Awaitable[Result]) -> asyncio.Future[Result]:
        """Begin the request, and return it once it waits for a lock, or is done."""
        task = asyncio.ensure_future(request)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not task.done() and not await self._observer.fetchval(WAITING, self._transaction.get_server_pid()):  # noqa: ASYNC110 (another process is waited for)
                await asyncio.sleep(0.01)
        return task
