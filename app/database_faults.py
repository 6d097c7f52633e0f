"""What can go wrong with PostgreSQL, through no fault of the request.

DatabaseFault
├── DatabaseUnavailable   cannot be reached, is shutting down, read-only, or out of disk
├── DatabaseBusy          no free connection, or a lock or statement took too long
└── TransactionConflict   lost against another transaction: run it again, whole
"""

from types import TracebackType

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

CONFLICTS = frozenset({"40001", "40P01"})
BUSY = frozenset({"53300", "55P03", "57014"})
UNAVAILABLE = frozenset({"25006", "28000", "28P01", "3D000", "53100", "53200", "57P01", "57P02", "57P03", "57P05"})


# What the pool itself raises for a connection that PostgreSQL refuses to open: the ORM, which would wrap it, has no part in it.
AdapterError = AsyncAdapt_asyncpg_dbapi.Error


class DatabaseFault(Exception):
    """PostgreSQL did not do what it was asked, through no fault of the request."""


class DatabaseUnavailable(DatabaseFault):
    """PostgreSQL cannot be reached, is shutting down, is read-only, or its disk is full."""


class DatabaseBusy(DatabaseFault):
    """No connection was free in time, or a lock or a statement took too long."""


class TransactionConflict(DatabaseFault):
    """The transaction lost against another one and can be run again, whole."""


class _Faults:
    """Turns what the driver, the ORM and the pool raise when PostgreSQL fails into the three kinds of `DatabaseFault`."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        fault = None if error is None else _fault_behind(error)
        if fault is not None:
            raise fault from error


faults = _Faults()


def _fault_behind(error: BaseException) -> DatabaseFault | None:
    """Return the fault that an error is a sign of, or None where it is none."""
    if isinstance(error, PoolTimeoutError):
        return DatabaseBusy("no connection became free in time")
    if isinstance(error, DBAPIError | AdapterError | asyncpg.PostgresError):
        return _fault_of(error)
    # An InterfaceError may also be a mistake of ours, such as an argument too few.
    if isinstance(error, asyncpg.InterfaceError) and "closed" not in str(error):
        return None
    if isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return DatabaseUnavailable("PostgreSQL cannot be reached")
    return None


def _fault_of(error: DBAPIError | AdapterError | asyncpg.PostgresError) -> DatabaseFault | None:
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
