"""Where every transaction begins and ends.

`Database.transaction(tenant_id)` gives an ORM session for writing, `Database.read(tenant_id)` a cheap reader. Both name the tenant to PostgreSQL's
row-level security as the transaction begins, by `SET LOCAL`, which cannot outlive the transaction. Nobody else commits.

    DatabaseFault
    ├── DatabaseUnavailable   cannot be reached, is shutting down, read-only, or out of disk
    ├── DatabaseBusy          no free connection, or a lock or statement took too long
    └── TransactionConflict   lost against another transaction: run it again, whole
"""

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import asyncpg
from sqlalchemy import Select, event, func, literal, select
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, DisconnectionError, MissingGreenlet
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, PoolResetState, QueuePool
from sqlalchemy.util import greenlet_spawn

from app.utils.json import to_json

if TYPE_CHECKING:
    Driver = asyncpg.Connection[asyncpg.Record]

IDLE_SECONDS, OPENING_SECONDS = 5.0, 2.0
_DIALECT = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]  # untyped in SQLAlchemy

DEAD_CONNECTION = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError, OSError)
CONFLICTS = frozenset({"40001", "40P01"})
BUSY = frozenset({"53300", "55P03", "57014"})
UNAVAILABLE = frozenset({"25006", "53100", "53200", "57P01", "57P02", "57P03", "57P05"})

ROLE_PROBLEM = """
SELECT CASE
    WHEN rolsuper THEN 'is a superuser'
    WHEN rolbypassrls THEN 'has BYPASSRLS'
    WHEN EXISTS (SELECT FROM pg_class WHERE relowner = pg_roles.oid AND relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace) THEN 'owns tables'
END FROM pg_roles WHERE rolname = current_user
"""


class DatabaseFault(Exception):
    """PostgreSQL did not do what it was asked, through no fault of the request."""


class DatabaseUnavailable(DatabaseFault):
    """PostgreSQL cannot be reached, is shutting down, is read-only, or its disk is full."""


class DatabaseBusy(DatabaseFault):
    """No connection was free in time, or a lock or a statement took too long."""


class TransactionConflict(DatabaseFault):
    """The transaction lost against another one and can be run again, whole."""


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
            connect_args={"timeout": connect_timeout, "server_settings": {"application_name": "saas-api"}},
        )
        self._most = pool_size + max_overflow
        self._pool = pool = cast("QueuePool", self.engine.sync_engine.pool)
        event.listen(pool, "connect", _refuse_unsafe_role)
        event.listen(pool, "checkout", _discard_dead_connection)
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
        with _faults():
            connection, driver = await self._begin(tenant_id)
            try:
                async with AsyncSession(bind=connection, expire_on_commit=False) as session:
                    yield session
                    await session.flush()
                    # PostgreSQL answers a COMMIT of a failed transaction with ROLLBACK, and without an error.
                    if await driver.execute("COMMIT") != "COMMIT":
                        raise RuntimeError("a statement of this transaction had failed, so nothing was committed")
            finally:
                # What an exception left open is rolled back as the connection returns to the pool, cancelled or not.
                await connection.close()

    async def _begin(self, tenant_id: UUID | None, *, again: bool = True) -> "tuple[AsyncConnection, Driver]":
        connection = await self.engine.connect()
        try:
            pooled = await connection.get_raw_connection()
            driver = await _open(pooled, "BEGIN; " + _set_tenant(tenant_id))
        except BaseException as error:
            dead = isinstance(error, DEAD_CONNECTION)
            if dead:
                await connection.invalidate()
            await connection.close()
            # Nothing has happened yet, so a connection that died in the pool is replaced, once.
            if dead and again:
                return await self._begin(tenant_id, again=False)
            raise
        return connection, driver

    @asynccontextmanager
    async def read(self, tenant_id: UUID | None) -> AsyncIterator[Reader]:
        """Open a read-only transaction. Row-level security shows the rows of `tenant_id` alone. Raises `DatabaseFault`."""
        opening = "BEGIN READ ONLY; " + _set_tenant(tenant_id)
        with _faults():
            pooled = await self._check_out()
            try:
                try:
                    driver = await _open(pooled, opening)
                except DEAD_CONNECTION:
                    # Replaced once, as in _begin.
                    pooled.invalidate()
                    await self._check_in(pooled)
                    pooled = await self._check_out()
                    driver = await _open(pooled, opening)
                yield Reader(driver)
                await driver.execute("COMMIT")
            finally:
                await self._check_in(pooled)

    async def _check_out(self) -> PoolProxiedConnection:
        """Take a connection from the pool. Only one that has to be made needs a greenlet, and switching to one takes as long as a query."""
        if self._pool.checkedin():
            with suppress(MissingGreenlet):
                return self._pool.connect()
        return await greenlet_spawn(self._pool.connect)

    async def _check_in(self, pooled: PoolProxiedConnection) -> None:
        """Give a connection back. Only where something is left to be rolled back or closed is a greenlet needed."""
        driver = pooled.driver_connection
        if driver is None or driver.is_in_transaction() or self._pool.overflow() > 0:
            await greenlet_spawn(pooled.close)
        else:
            pooled.close()


async def _open(pooled: PoolProxiedConnection, opening: str) -> "Driver":
    """Open a transaction. What has been idle for long may be dead without our having been told, so it is given only so long to answer."""
    driver = cast("Driver", pooled.driver_connection)
    returned_at = pooled.info.get("returned_at")
    idle = 0.0 if returned_at is None else time.monotonic() - returned_at
    await driver.execute(opening, timeout=OPENING_SECONDS if idle > IDLE_SECONDS else None)
    return driver


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


@contextmanager
def _faults() -> Iterator[None]:
    """Turn what the driver, the ORM and the pool raise when PostgreSQL fails into the three kinds of `DatabaseFault`."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseBusy("no connection became free in time") from error
    except (DBAPIError, asyncpg.PostgresError) as error:
        fault = _fault_of(error)
        if fault is None:
            raise
        raise fault from error
    except (OSError, TimeoutError, asyncpg.InterfaceError) as error:
        raise DatabaseUnavailable("PostgreSQL cannot be reached") from error


def _fault_of(error: DBAPIError | asyncpg.PostgresError) -> DatabaseFault | None:
    """Return the fault that the error's SQLSTATE stands for, or None where the statement itself is to blame."""
    state = sqlstate_of(error)
    if state in CONFLICTS:
        return TransactionConflict("lost against another transaction")
    if state in BUSY:
        return DatabaseBusy("a lock or a statement took too long")
    invalidated = isinstance(error, DBAPIError) and error.connection_invalidated
    if invalidated or state in UNAVAILABLE or state.startswith("08"):
        return DatabaseUnavailable("PostgreSQL is not available")
    return None


def sqlstate_of(error: BaseException) -> str:
    """Return the five letters of PostgreSQL's error code, or an empty string."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    return getattr(origin, "sqlstate", None) or ""


def violated_constraint(error: DBAPIError) -> str:
    """Return the name of the constraint that refused the row, or an empty string."""
    cause = error.orig.__cause__ if error.orig is not None else None
    return getattr(cause, "constraint_name", None) or ""


def _refuse_unsafe_role(connection: Any, record: ConnectionPoolEntry) -> None:
    problem = connection.run_async(lambda driver: driver.fetchval(ROLE_PROBLEM))
    if problem is not None:
        raise UnsafeRole(f"DATABASE_URL's role {problem}, so row-level security would not hold: use a role made by `python -m app.cli database prepare`")


def _discard_dead_connection(connection: Any, record: ConnectionPoolEntry, pooled: PoolProxiedConnection) -> None:
    if connection.driver_connection.is_closed():
        raise DisconnectionError


def _remember_time(connection: Any, record: ConnectionPoolEntry) -> None:
    record.info["returned_at"] = time.monotonic()


def _end_open_transaction(connection: Any, record: ConnectionPoolEntry, state: PoolResetState) -> None:
    """Roll back what a failed or cancelled block left open, so that no connection goes back with a tenant named in it."""
    if not state.terminate_only and not connection.driver_connection.is_closed() and connection.driver_connection.is_in_transaction():
        connection.run_async(lambda driver: driver.execute("ROLLBACK", timeout=2.0))
