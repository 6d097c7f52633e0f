"""Where every transaction begins and ends.

`Database.transaction(tenant_id)` gives an ORM session for writing, `Database.read(tenant_id)` a cheap reader. Both name the tenant to PostgreSQL's
row-level security as the transaction begins, by `SET LOCAL`, which cannot outlive the transaction. Nobody else commits.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast
from uuid import UUID

import asyncpg
from sqlalchemy import Connection, Select, event, func, literal, select
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, ManagesConnection, PoolProxiedConnection, PoolResetState
from sqlalchemy.util import greenlet_spawn

from app.database_faults import faults
from app.database_pool import ReadersPool
from app.utils.json import to_json

if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]

Held = TypeVar("Held", bound=ManagesConnection)

IDLE_SECONDS, OPENING_SECONDS = 5.0, 2.0
# For a server that hangs; one that works ends a statement itself, after the role's statement_timeout of 5 s.
COMMAND_SECONDS = 7.0
# What is noted of a pooled connection.
ANSWERED_AT, OPEN = "answered_at", "open"
_DIALECT = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy

# An InternalClientError is what the driver makes of a server that hangs up at that very moment.
DEAD_CONNECTION = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.AdminShutdownError, OSError)

ROLE_PROBLEM = """
SELECT CASE
    WHEN own.rolsuper THEN 'is a superuser'
    WHEN own.rolbypassrls THEN 'has BYPASSRLS'
    WHEN EXISTS (SELECT FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace AND pg_has_role(relowner, 'MEMBER'))
        THEN 'owns tables, or may become who does'
    WHEN EXISTS (SELECT FROM pg_roles other WHERE (other.rolsuper OR other.rolbypassrls) AND pg_has_role(other.oid, 'MEMBER'))
        THEN 'may become a role that row-level security does not bind'
END FROM pg_roles own WHERE own.rolname = current_user
"""


class UnsafeRole(RuntimeError):
    """The service's database role could see or change every tenant's rows, so the service refuses to use it."""


class Query:
    """A SELECT written in SQLAlchemy and compiled once, to be run by a `Reader` on the driver itself."""

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=_DIALECT)
        self.sql = str(compiled)
        self._names: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._constants: dict[str, Any] = {name: value for name, value in compiled.params.items() if value is not None}

    def arguments(self, parameters: dict[str, Any]) -> list[Any]:
        """Return the values in the order in which the SQL numbers them. Raises `KeyError` for one that is missing."""
        constants = self._constants
        return [parameters[name] if name in parameters else constants[name] for name in self._names]


ONE = Query(select(literal(1)))
MAX_CONNECTIONS = Query(select(func.current_setting("max_connections")))


class Reader:
    """Runs queries in one read-only transaction of one tenant."""

    def __init__(self, connection: "Driver") -> None:
        self._connection = connection

    async def fetch(self, query: Query, **parameters: Any) -> list[asyncpg.Record]:
        """Return all rows."""
        return await self._connection.fetch(query.sql, *query.arguments(parameters))

    async def fetch_one(self, query: Query, **parameters: Any) -> asyncpg.Record | None:
        """Return the first row, or None."""
        return await self._connection.fetchrow(query.sql, *query.arguments(parameters))


class Database:
    """The engine, its pool, and the only two ways to open a transaction."""

    def __init__(self, url: URL, *, pool_size: int = 40, max_overflow: int = 20, pool_timeout: float = 5.0, connect_timeout: float = 5.0) -> None:
        self.engine: AsyncEngine = create_async_engine(
            url,
            poolclass=ReadersPool,
            # The connection that was in use last: what belongs to it is still in the processor's caches, here and in PostgreSQL.
            pool_use_lifo=True,
            pool_size=pool_size,
            max_overflow=max_overflow,
            pool_timeout=pool_timeout,
            # We send BEGIN and COMMIT ourselves: BEGIN travels in one message with SET LOCAL, and the driver is told nothing twice.
            isolation_level="AUTOCOMMIT",
            # An error's text would show the values: addresses, hashes, whatever was in the body.
            hide_parameters=True,
            json_serializer=lambda value: to_json(value).decode(),
            connect_args={"timeout": connect_timeout, "command_timeout": COMMAND_SECONDS, "server_settings": {"application_name": "saas-api"}},
        )
        self._most = pool_size + max_overflow
        event.listen(self._pool, "connect", _refuse_unsafe_role)
        event.listen(self._pool, "reset", _end_open_transaction)

    @property
    def _pool(self) -> ReadersPool:
        return cast("ReadersPool", self.engine.sync_engine.pool)

    async def close(self) -> None:
        """Close every pooled connection."""
        await self.engine.dispose()

    async def check(self) -> None:
        """Run a query. Raises `DatabaseFault` when PostgreSQL does not answer, `UnsafeRole` when the role is too powerful."""
        async with self.read(None) as reader:
            await reader.fetch_one(ONE)

    @property
    def most_connections(self) -> int:
        """How many connections this process may open."""
        return self._most

    async def connections_allowed(self) -> int:
        """Return the server's max_connections. Raises `DatabaseFault`."""
        async with self.read(None) as reader:
            row = await reader.fetch_one(MAX_CONNECTIONS)
        return int(row[0]) if row else 0

    @asynccontextmanager
    async def transaction(self, tenant_id: UUID | None) -> AsyncIterator[AsyncSession]:
        """Open a transaction for writing, commit it when the block ends, roll it back when the block raises.

        Within it, row-level security shows the rows of `tenant_id` alone; with None, no tenant's. Raises `DatabaseFault`.
        """
        with faults:
            pooled = await _begin("BEGIN; " + _set_tenant(tenant_id), partial(greenlet_spawn, self._pool.connect), _close)
            connection = AsyncConnection(self.engine, Connection(self.engine.sync_engine, pooled))
            try:
                async with AsyncSession(bind=connection, expire_on_commit=False) as session:
                    yield session
                    await session.flush()
                    await _commit(pooled)
            finally:
                # What an exception left open is rolled back as the connection returns to the pool, cancelled or not.
                await connection.close()

    def read(self, tenant_id: UUID | None) -> "Reading":
        """Open a read-only transaction. Row-level security shows the rows of `tenant_id` alone. Raises `DatabaseFault`."""
        return Reading(self._pool, "BEGIN READ ONLY; " + _set_tenant(tenant_id))


class Reading:
    """A read-only transaction. A class, because it is entered for every read and a generator takes 12 µs longer."""

    __slots__ = ("_entry", "_opening", "_pool")

    def __init__(self, pool: ReadersPool, opening: str) -> None:
        self._pool = pool
        self._opening = opening

    async def __aenter__(self) -> Reader:
        with faults:
            self._entry = await _begin(self._opening, self._pool.take, self._give_back)
        return Reader(_driver(self._entry))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with faults:
            try:
                if error is not None:
                    raise error
                await _commit(self._entry)
            finally:
                await self._give_back(self._entry)

    async def _give_back(self, entry: ConnectionPoolEntry, dead: bool = False) -> None:
        """Give the connection back, or up where what was left open on it cannot be rolled back."""
        try:
            if not dead and entry.info.get(OPEN):
                dead = True
                with suppress(Exception):
                    await _roll_back(entry)
                    dead = False
        finally:
            await self._pool.give_back(entry, dead)


class KnownDead(ConnectionError):
    """The driver knows that this connection is closed."""


async def _begin(opening: str, take: Callable[[], Awaitable[Held]], drop: Callable[[Held, bool], Awaitable[None]]) -> Held:
    """Open a transaction on a connection of the pool.

    Nothing has happened yet, so one that died in the pool is replaced: each that is known to be closed, and one that was not.
    """
    again = True
    while True:
        held = await take()
        try:
            await _open(held, opening)
        except BaseException as error:
            dead = isinstance(error, DEAD_CONNECTION)
            await drop(held, dead)
            if not (dead and again):
                raise
            again = isinstance(error, KnownDead)
        else:
            return held


async def _close(pooled: PoolProxiedConnection, dead: bool) -> None:
    if dead:
        pooled.invalidate()
    await greenlet_spawn(pooled.close)


def _driver(connection: ManagesConnection) -> "Driver":
    return cast("Driver", connection.driver_connection)


async def _open(connection: ManagesConnection, opening: str) -> None:
    """Open a transaction. What has been idle for long may be dead without our having been told, so it is given only so long to answer."""
    driver, info, now = _driver(connection), connection.info, time.monotonic()
    if driver.is_closed():
        raise KnownDead
    idle = now - info.get(ANSWERED_AT, now)
    # Before, not after: when this is cancelled half-way, the driver does not know that PostgreSQL has begun.
    info[OPEN] = True
    await driver.execute(opening, timeout=OPENING_SECONDS if idle > IDLE_SECONDS else None)


async def _commit(connection: ManagesConnection) -> None:
    # PostgreSQL answers a COMMIT of a failed transaction with ROLLBACK, and without an error.
    if await _driver(connection).execute("COMMIT") != "COMMIT":
        raise RuntimeError("a statement of this transaction had failed, so nothing was committed")
    connection.info.update({OPEN: False, ANSWERED_AT: time.monotonic()})


async def _roll_back(connection: ManagesConnection) -> None:
    await _driver(connection).execute("ROLLBACK", timeout=OPENING_SECONDS)
    connection.info.update({OPEN: False, ANSWERED_AT: time.monotonic()})


def _end_open_transaction(connection: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
    """Roll back what a failed or cancelled block left open, so that no connection goes back with a tenant named in it."""
    if record.info.get(OPEN) and not state.terminate_only and not connection.driver_connection.is_closed():
        connection.run_async(lambda _: _roll_back(record))


def _set_tenant(tenant_id: UUID | None) -> str:
    """Return the statement that names the tenant to row-level security.

    SET takes no parameters, so the value is written into the statement: it must be a UUID, never text that came from outside. Not by
    set_config(): a Citus coordinator carries only SET LOCAL on to its shards.
    """
    if tenant_id is None:
        return "SET LOCAL app.tenant_id = ''"
    if not isinstance(tenant_id, UUID):
        raise TypeError(f"tenant_id must be a UUID, not {type(tenant_id).__name__}")
    return f"SET LOCAL app.tenant_id = '{tenant_id}'"


def _refuse_unsafe_role(connection: Any, record: ConnectionPoolEntry) -> None:
    problem = connection.run_async(lambda driver: driver.fetchval(ROLE_PROBLEM))
    if problem is not None:
        raise UnsafeRole(f"DATABASE_URL's role {problem}, so row-level security would not hold: use a role made by `python -m app.cli database prepare`")
