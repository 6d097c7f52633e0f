"""Pooled connections under cancellation: a connection that another tenant's request left, however it ended, carries nothing of that tenant."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from app.config import with_driver
from app.database import Database, Query
from app.database_faults import DatabaseFault
from app.models import Project, new_id
from tests.factories import Factory

if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]

POOL_SIZE = 4
TENANTS = 12
OPERATIONS = 2_000
AT_ONCE = 10
CANCELLED = 0.4
LONGEST_LIFE = 0.012

# On purpose without a filter: what these return is what row-level security lets through.
EVERY_TENANT = Query(select(Project.tenant_id).distinct())
NAMED_TENANT = "SELECT current_setting('app.tenant_id', true)"


class Failed(Exception):
    """What an endpoint may raise in the middle of a transaction."""


@pytest.fixture
async def database(database_urls: tuple[str, str]) -> AsyncIterator[Database]:
    made = Database(with_driver(database_urls[1], "asyncpg"), pool_size=POOL_SIZE, max_overflow=0, pool_timeout=60)
    yield made
    await made.close()


async def read(database: Database, tenant: UUID) -> None:
    async with database.read(tenant) as reader:
        for _ in range(random.randint(1, 3)):
            rows = await reader.fetch(EVERY_TENANT)
            assert [row["tenant_id"] for row in rows] == [tenant]


async def write(database: Database, tenant: UUID) -> None:
    async with database.transaction(tenant) as session:
        session.add(Project(tenant_id=tenant, id=new_id(), name="written"))
        await session.flush()
        assert list(await session.scalars(select(Project.tenant_id).distinct())) == [tenant]


async def write_and_raise(database: Database, tenant: UUID) -> None:
    async with database.transaction(tenant) as session:
        session.add(Project(tenant_id=tenant, id=new_id(), name="must be rolled back"))
        await session.flush()
        raise Failed


async def fail_in_a_savepoint(database: Database, tenant: UUID) -> None:
    async with database.transaction(tenant) as session:
        try:
            async with session.begin_nested():
                await session.execute(text(f"SET LOCAL app.tenant_id = '{uuid4()}'"))
                await session.execute(text("SELECT 1 / 0"))
        except DBAPIError:
            pass
        assert list(await session.scalars(select(Project.tenant_id).distinct())) == [tenant]


async def fail_without_a_savepoint(database: Database, tenant: UUID) -> None:
    async with database.transaction(tenant) as session:
        session.add(Project(tenant_id=tenant, id=new_id(), name="must be rolled back"))
        try:
            await session.execute(text("SELECT 1 / 0"))
        except DBAPIError as error:
            raise Failed from error


KINDS: tuple[Callable[[Database, UUID], Awaitable[None]], ...] = (read, read, read, write, write_and_raise, fail_in_a_savepoint, fail_without_a_savepoint)


@contextmanager
def watched_connections() -> Iterator[tuple[Counter[str], list[int]]]:
    """Have every connection looked at just before a transaction is opened on it. Gives the problems found, and the count of looks, in a list."""
    problems: Counter[str] = Counter()
    looks = [0]
    execute = asyncpg.Connection.execute

    async def look_and_execute(driver: "Driver", query: str, *args: Any, **options: Any) -> str:
        if query.startswith("BEGIN"):
            if await driver.fetchval(NAMED_TENANT):
                problems["a tenant is named"] += 1
            # Asked after the statement: before it, the driver may not have heard yet how a cancelled one ended.
            if driver.is_in_transaction():
                problems["a transaction is open"] += 1
            looks[0] += 1
        return await execute(driver, query, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncpg.Connection, "execute", look_and_execute)
        yield problems, looks


async def run_cancelling(work: Awaitable[None]) -> str:
    """Run something, cancel it at a random moment in two cases of five, and say how it ended."""
    task = asyncio.ensure_future(work)
    if random.random() < CANCELLED:
        asyncio.get_running_loop().call_later(random.random() * LONGEST_LIFE, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return "cancelled"
    except Failed:
        return "failed"
    except DatabaseFault as error:
        return f"fault: {error}: {error.__cause__!r}"
    return "done"


async def test_no_connection_of_the_pool_carries_a_tenant_from_one_request_to_the_next(database: Database, factory: Factory) -> None:
    random.seed(7)
    tenants = [(await factory.project(await factory.tenant())).tenant_id for _ in range(TENANTS)]
    ends: Counter[str] = Counter()
    remaining = iter(range(OPERATIONS))

    async def client() -> None:
        for _ in remaining:
            ends[await run_cancelling(random.choice(KINDS)(database, random.choice(tenants)))] += 1

    with watched_connections() as (problems, looks):
        async with asyncio.timeout(120):
            await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    assert not problems, problems
    # All of it did happen: enough was cancelled, failed and done, over and over on the same few connections.
    assert set(ends) == {"done", "failed", "cancelled"}, ends
    assert min(ends.values()) > OPERATIONS / 20, ends
    assert looks[0] > OPERATIONS / 2
    names = await factory.run("SELECT DISTINCT name FROM projects WHERE tenant_id = ANY (:ids)", ids=tenants)
    assert "must be rolled back" not in {name for (name,) in names}


async def test_a_look_at_a_connection_finds_what_was_left_behind(database_urls: tuple[str, str]) -> None:
    driver: Driver = await asyncpg.connect(database_urls[1])
    with watched_connections() as (problems, _):
        await driver.execute(f"BEGIN; SET LOCAL app.tenant_id = '{uuid4()}'")
        assert not problems
        await driver.execute(f"BEGIN; SET LOCAL app.tenant_id = '{uuid4()}'")
    assert problems == {"a tenant is named": 1, "a transaction is open": 1}
    await driver.close()
