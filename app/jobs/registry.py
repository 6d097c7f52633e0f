"""The kinds of jobs, and what each is given to work with.

A job about a tenant gets transactions of that tenant and of no other; one about none gets transactions in which no tenant's row is visible. Nothing
else that a job gets can open one.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.config import Settings
from app.core.derived_tokens import DerivedTokens
from app.core.redis import RedisGateway
from app.database import Database
from app.utils.mailer import Mailer


class GiveUp(Exception):
    """Trying again would not help: the job is kept as failed, until an operator sends it again."""


@dataclass(frozen=True)
class Tools:
    """What every job may use. The database is not among it."""

    settings: Settings
    redis: RedisGateway
    derived_tokens: DerivedTokens
    mailer: Mailer


class TenantJob:
    """A job about one tenant."""

    def __init__(self, database: Database, tools: Tools, tenant_id: UUID) -> None:
        self._database = database
        self.tools = tools
        self.tenant_id = tenant_id

    def transaction(self) -> AbstractAsyncContextManager[AsyncSession]:
        """Open a transaction of the job's tenant."""
        return self._database.transaction(self.tenant_id)


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
