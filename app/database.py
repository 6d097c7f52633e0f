"""Where every transaction begins and ends.

`Database.transaction(tenant_id)` gives an ORM session for writing, `Database.read(tenant_id)` a cheap reader. Both name the tenant to PostgreSQL's
row-level security as the transaction begins, by `SET LOCAL`, which cannot outlive the transaction. Nobody else commits.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import asyncpg
from sqlalchemy import Select, event, func, literal, select
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, PoolResetState, QueuePool
from sqlalchemy.util import greenlet_spawn

from app.database_faults import faults
from app.utils.json import to_json

if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]

IDLE_SECONDS, OPENING_SECONDS = 5.0, 2.0
# For a server that hangs; one that works ends a statement itself, after the role's statement_timeout of 5 s.
COMMAND_SECONDS = 7.0
# What is noted of a pooled connection.
RETURNED_AT, OPEN = "returned_at", "open"
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
        self._pool = pool = cast("QueuePool", self.engine.sync_engine.pool)
        event.listen(pool, "connect", _refuse_unsafe_role)
        self._emptied: set[int] = set()
        event.listen(pool, "connect", self._note_filled)
        event.listen(pool, "invalidate", self._note_emptied)
        event.listen(pool, "checkin", _remember_time)
        event.listen(pool, "reset", _end_open_transaction)

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
        with faults():
            connection, pooled = await self._begin(tenant_id)
            try:
                async with AsyncSession(bind=connection, expire_on_commit=False) as session:
                    yield session
                    await session.flush()
                    await _commit(pooled)
            finally:
                # What an exception left open is rolled back as the connection returns to the pool, cancelled or not.
                await connection.close()

    async def _begin(self, tenant_id: UUID | None, *, again: bool = True) -> tuple[AsyncConnection, PoolProxiedConnection]:
        connection = await self.engine.connect()
        try:
            pooled = await connection.get_raw_connection()
            await _open(pooled, "BEGIN; " + _set_tenant(tenant_id))
        except BaseException as error:
            dead = isinstance(error, DEAD_CONNECTION)
            if dead:
                await connection.invalidate()
            await connection.close()
            # Nothing has happened yet, so a connection that died in the pool is replaced: each that is known to be closed, and one that was not.
            if dead and again:
                return await self._begin(tenant_id, again=isinstance(error, KnownDead))
            raise
        return connection, pooled

    @asynccontextmanager
    async def read(self, tenant_id: UUID | None) -> AsyncIterator[Reader]:
        """Open a read-only transaction. Row-level security shows the rows of `tenant_id` alone. Raises `DatabaseFault`."""
        opening = "BEGIN READ ONLY; " + _set_tenant(tenant_id)
        with faults():
            pooled = await self._check_out()
            try:
                again = True
                while True:
                    try:
                        await _open(pooled, opening)
                        break
                    except DEAD_CONNECTION as error:
                        # Replaced as in _begin.
                        if not again:
                            raise
                        again = isinstance(error, KnownDead)
                        pooled.invalidate()
                        await self._check_in(pooled)
                        pooled = await self._check_out()
                yield Reader(_driver(pooled))
                await _commit(pooled)
            finally:
                await self._check_in(pooled)

    async def _check_out(self) -> PoolProxiedConnection:
        """Take a connection from the pool. Only one that has to be made needs a greenlet, and switching to one takes as long as a query."""
        if self._pool.checkedin() and not self._emptied:
            return self._pool.connect()
        return await greenlet_spawn(self._pool.connect)

    async def _check_in(self, pooled: PoolProxiedConnection) -> None:
        """Give a connection back. Only where something is left to be rolled back or closed is a greenlet needed."""
        if pooled.driver_connection is None or pooled.info.get(OPEN) or self._pool.overflow() > 0:
            await greenlet_spawn(pooled.close)
        else:
            pooled.close()

    def _note_emptied(self, connection: Any, record: ConnectionPoolEntry, error: BaseException | None) -> None:
        """Remember that a place in the pool has lost its connection: whoever takes it next has to make one."""
        self._emptied.add(id(record))

    def _note_filled(self, connection: Any, record: ConnectionPoolEntry) -> None:
        self._emptied.discard(id(record))


class KnownDead(ConnectionError):
    """The driver knows that this connection is closed."""


def _driver(pooled: PoolProxiedConnection) -> "Driver":
    return cast("Driver", pooled.driver_connection)


async def _open(pooled: PoolProxiedConnection, opening: str) -> None:
    """Open a transaction. What has been idle for long may be dead without our having been told, so it is given only so long to answer."""
    driver = _driver(pooled)
    if driver.is_closed():
        raise KnownDead
    returned_at = pooled.info.get(RETURNED_AT)
    idle = 0.0 if returned_at is None else time.monotonic() - returned_at
    # Before, not after: when this is cancelled half-way, the driver does not know that PostgreSQL has begun.
    pooled.info[OPEN] = True
    await driver.execute(opening, timeout=OPENING_SECONDS if idle > IDLE_SECONDS else None)


async def _commit(pooled: PoolProxiedConnection) -> None:
    # PostgreSQL answers a COMMIT of a failed transaction with ROLLBACK, and without an error.
    if await _driver(pooled).execute("COMMIT") != "COMMIT":
        raise RuntimeError("a statement of this transaction had failed, so nothing was committed")
    pooled.info[OPEN] = False


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


def _remember_time(connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[RETURNED_AT] = time.monotonic()


def _end_open_transaction(connection: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
    """Roll back what a failed or cancelled block left open, so that no connection goes back with a tenant named in it."""
    if record.info.get(OPEN) and not state.terminate_only and not connection.driver_connection.is_closed():
        connection.run_async(lambda driver: driver.execute("ROLLBACK", timeout=OPENING_SECONDS))
        record.info[OPEN] = False
