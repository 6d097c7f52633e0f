"""Health, as load balancers see it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

State = Literal["up", "down"]


class Checks(BaseModel):
    """Whether the servers behind the service answer."""

    database: State
    redis: State


class Health(BaseModel):
    """The service's health: degraded without Redis, unhealthy without PostgreSQL."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "healthy", "version": "0.1.0", "checks": {"database": "up", "redis": "up"}}})

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    checks: Checks


class Probe(BaseModel):
    """The answer to a liveness or readiness probe."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "alive"}})

    status: Literal["alive", "ready"]
