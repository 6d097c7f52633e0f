"""The kinds of jobs, and what each is given to work with.

A job about a tenant gets transactions of that tenant and of no other; one about none gets transactions in which no tenant's row is visible. Nothing
else that a job gets can open one.

Work must bear being done twice, and twice at once: a worker that was killed, or that was held up for longer than its heartbeat, has its job taken over,
and may have done any part of it. What is done in PostgreSQL alone happens once if it is done in `TenantJob.final_transaction`.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.derived_tokens import DerivedTokens
from app.core.queue import take_off_queue
from app.core.redis import RedisGateway
from app.core.throttle import Throttle
from app.database import Database
from app.utils.mailer import Mailer


class GiveUp(Exception):
    """Trying again would not help: the job is kept as failed, until an operator sends it again."""


class PutOff(Exception):
    """The job's time has not come: it is tried again after a pause, as often as that takes."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"to be tried again after {seconds} s")
        self.seconds = seconds


class AlreadyDone(Exception):
    """Another worker has taken the job over and done it meanwhile, so what this one has done is rolled back."""


@dataclass(frozen=True)
class Tools:
    """What every job may use. The database is not among it."""

    settings: Settings
    redis: RedisGateway
    throttle: Throttle
    derived_tokens: DerivedTokens
    mailer: Mailer


class TenantJob:
    """A job about one tenant."""

    def __init__(self, database: Database, tools: Tools, tenant_id: UUID, job_id: int = 0) -> None:
        self._database = database
        self.tools = tools
        self.tenant_id = tenant_id
        self.job_id = job_id

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction of the job's tenant."""
        return self._database.transaction(self.tenant_id)

    @asynccontextmanager
    async def final_transaction(self) -> AsyncIterator[AsyncSession]:
        """Open a transaction of the job's tenant that takes the job off the queue with its commit, so that what it does happens once.

        Raises `AlreadyDone`, which is to be passed on, where the job is no longer in the queue.
        """
        async with self.transaction() as session:
            yield session
            # At the end, not at the beginning: the heartbeat would wait for the lock on the job's row.
            await session.flush()
            if not await take_off_queue(session, self.job_id):
                raise AlreadyDone


class WorldwideJob:
    """A job about no tenant."""

    def __init__(self, database: Database, tools: Tools) -> None:
        self._database = database
        self.tools = tools

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction that shows no tenant's rows; tenants themselves, and the queue, it does show."""
        return self._database.transaction(None)


TenantWork = Callable[[TenantJob, dict[str, Any]], Awaitable[None]]
WorldwideWork = Callable[[WorldwideJob, dict[str, Any]], Awaitable[None]]

TENANT_JOBS: dict[str, TenantWork] = {}
WORLDWIDE_JOBS: dict[str, WorldwideWork] = {}


def tenant_job(kind: str) -> Callable[[TenantWork], TenantWork]:
    """Register what does a kind of job that is always about a tenant. It is called with the payload, and must bear being called twice."""

    def register(work: TenantWork) -> TenantWork:
        TENANT_JOBS[kind] = work
        return work

    return register


def worldwide_job(kind: str) -> Callable[[WorldwideWork], WorldwideWork]:
    """Register what does a kind of job that is never about a tenant. It is called with the payload, and must bear being called twice."""

    def register(work: WorldwideWork) -> WorldwideWork:
        WORLDWIDE_JOBS[kind] = work
        return work

    return register


class Dispatcher:
    """Gives each job to what does its kind, in the context that the kind demands."""

    def __init__(self, database: Database, tools: Tools) -> None:
        self._database = database
        self._tools = tools

    async def dispatch(self, kind: str, job_id: int, payload: bytes | None) -> None:
        """Do a job. Raises `GiveUp` where the payload is not one of that kind, and whatever the work raises."""
        content = _content(payload)
        tenant_id = content.pop("tenant_id", None)
        if kind in TENANT_JOBS and tenant_id is not None:
            await TENANT_JOBS[kind](TenantJob(self._database, self._tools, _tenant(tenant_id), job_id), content)
        elif kind in WORLDWIDE_JOBS and tenant_id is None:
            await WORLDWIDE_JOBS[kind](self.worldwide(), content)
        else:
            raise GiveUp("this kind of job is always about a tenant, or never, and this one is not so")

    def worldwide(self) -> WorldwideJob:
        """Return the context of a job about no tenant."""
        return WorldwideJob(self._database, self._tools)


def _content(payload: bytes | None) -> dict[str, Any]:
    try:
        content = json.loads(payload or b"")
    except ValueError:
        raise GiveUp("the payload is not JSON") from None
    if not isinstance(content, dict):
        raise GiveUp("the payload is not an object")
    return content


def _tenant(text: object) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise GiveUp("the tenant's identifier is malformed") from None
