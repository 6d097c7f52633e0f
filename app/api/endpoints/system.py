"""Health, as load balancers see it. Needs no tenant, and is not limited."""

import asyncio

from fastapi import APIRouter, Response
from redis.exceptions import RedisError

from app import __version__
from app.api.deps import AllServices
from app.core.exceptions import Unavailable
from app.database_faults import DatabaseFault
from app.schemas.system import Checks, Health, Probe, State
from app.services.container import Services

CHECK_SECONDS = 0.8

router = APIRouter(tags=["system"])


class NotReady(Unavailable):
    """The process is starting, or is about to stop."""

    code = "not_ready"


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


@router.get("/health/ready", responses={503: {"description": "Starting, or about to stop"}})
async def ready(services: AllServices) -> Probe:
    """Say whether the process can serve: not while it starts, and not once it was told to stop."""
    if not services.readiness.ready or await _database(services) == "down":
        raise NotReady
    return Probe(status="ready")


async def _database(services: Services) -> State:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await services.database.check()
    except (DatabaseFault, TimeoutError):
        return "down"
    return "up"


async def _redis(services: Services) -> State:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await services.redis.client.ping()
    except (RedisError, OSError, TimeoutError):
        return "down"
    return "up"
