"""Health, as load balancers see it. Needs no tenant, and is not limited."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
from fastapi import APIRouter, Response
from redis.exceptions import RedisError

from app import __version__
from app.api.deps import AllServices
from app.core.exceptions import Unavailable
from app.core.redis import RedisGateway
from app.database import UnsafeRole
from app.database_faults import DatabaseFault
from app.schemas.system import Checks, Health, Probe, State
from app.services.container import Services

CHECK_SECONDS = 0.8

log = structlog.get_logger(__name__)

router = APIRouter(tags=["system"])


class NotReady(Unavailable):
    """The process is starting, or is about to stop."""

    code = "not_ready"


class NotMigrated(NotReady):
    """The database has not been migrated as far as this version needs. Run: alembic upgrade head"""

    code = "not_migrated"


@router.get("/health", responses={503: {"model": Health, "description": "Unhealthy: PostgreSQL does not answer"}})
async def health(services: AllServices, response: Response) -> Health:
    """Show whether the service and the servers behind it work. Answers within a second even when they hang."""
    database, redis = await asyncio.gather(_database(services), _redis(services))
    if database == "down":
        response.status_code = 503
    status = "unhealthy" if database == "down" else "degraded" if redis == "down" else "healthy"
    return Health.model_validate({"status": status, "version": __version__, "checks": Checks(database=database, redis=redis)})


@router.get("/health/live")
async def live() -> Probe:
    """Say that the process runs."""
    return Probe(status="alive")


@router.get("/health/ready", responses={503: {"description": "Starting, about to stop, or the database is away or not migrated"}})
async def ready(services: AllServices) -> Probe:
    """Say whether the process can serve: not while it starts, not once it was told to stop, and not before the database is migrated."""
    if not services.readiness.ready or not await answers(_check_database(services)):
        raise NotReady
    return Probe(status="ready")


async def _database(services: Services) -> State:
    return "up" if await answers(services.database.check()) else "down"


async def _check_database(services: Services) -> None:
    await services.database.check()
    if not await services.schema.is_current():
        raise NotMigrated


async def _redis(services: Services) -> State:
    return "up" if await answers(_ping(services.redis)) else "down"


async def _ping(redis: RedisGateway) -> None:
    await redis.client.ping()


async def answers(question: Coroutine[Any, Any, object]) -> bool:
    """Whether a server answers in time. A question that hangs is given up and not waited for: its clean-up may hang as well."""
    task = asyncio.create_task(question)
    _given_up.add(task)
    task.add_done_callback(_forget)
    done, _ = await asyncio.wait({task}, timeout=CHECK_SECONDS)
    if not done:
        task.cancel()
        return False
    try:
        task.result()
    except (DatabaseFault, RedisError, OSError):
        return False
    except UnsafeRole as error:
        log.error("unsafe database role", error=str(error))  # noqa: TRY400 (its sentence says all, a traceback nothing)
        return False
    return True


# The event loop alone would not keep them from being collected.
_given_up: set[asyncio.Task[object]] = set()


def _forget(task: asyncio.Task[object]) -> None:
    _given_up.discard(task)
    if not task.cancelled():
        task.exception()
