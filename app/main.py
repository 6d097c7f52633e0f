"""Builds the application: lifespan, middleware in order, routers, error handlers. No logic."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware

from app import __version__
from app.api.application import Application
from app.api.direct import DirectMiddleware
from app.api.endpoints.documentation import mount_documentation
from app.api.openapi import DESCRIPTION, describe
from app.api.router import routes
from app.config import Settings, get_settings
from app.core import problems
from app.database_faults import DatabaseFault
from app.middleware.body_limit import BodyLimitMiddleware
from app.middleware.cors import ProblemCORSMiddleware
from app.middleware.errors import ErrorMiddleware
from app.middleware.head import HeadMiddleware
from app.middleware.rate_limit import RateLimitMiddleware
from app.middleware.request_context import RequestContextMiddleware
from app.middleware.security_headers import SecurityHeadersMiddleware
from app.middleware.tenant import TenantMiddleware
from app.middleware.trusted_host import TrustedHostMiddleware, TrustedProxyMiddleware
from app.services.container import Services, log_connections
from app.utils.logging import configure_logging

log = structlog.get_logger(__name__)

# What pages of other origins may read beyond the body.
EXPOSED = (
    *("Allow", "ETag", "Location", "Retry-After", "Server-Timing", "WWW-Authenticate", "X-Process-Time", "X-Request-ID"),
    *("RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"),
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start and stop what outlives a request. Raises `UnsafeRole` where the database role could see every tenant."""
    services: Services = app.state.services
    settings = services.settings
    configure_logging(settings.log_format, settings.log_level)
    try:
        await log_connections(services)
    except DatabaseFault as error:
        log.warning("PostgreSQL is not there yet; /health/ready says so until it is", error=str(error.__cause__ or error))
    services.readiness.ready = True
    log.info("started", version=__version__, environment=settings.environment)
    try:
        yield
    finally:
        services.readiness.ready = False
        await services.close()


def middleware_of(services: Services) -> list[Middleware]:
    """Return the middleware, outermost first."""
    settings = services.settings
    return [
        *([Middleware(TrustedProxyMiddleware, settings.trusted_proxies)] if settings.trusted_proxies else []),
        Middleware(RequestContextMiddleware),
        Middleware(SecurityHeadersMiddleware),
        # Outside of what answers errors, which have no body either.
        Middleware(HeadMiddleware),
        Middleware(ErrorMiddleware),
        # Outside of CORS, which answers preflight requests itself.
        Middleware(TrustedHostMiddleware, settings.allowed_hosts),
        # Errors once more: what is refused further in needs the headers of CORS.
        *([Middleware(ProblemCORSMiddleware, **cors_of(settings)), Middleware(ErrorMiddleware)] if settings.allowed_origins else []),
        Middleware(BodyLimitMiddleware, settings.max_body_bytes, settings.body_timeout),
        Middleware(TenantMiddleware, services.tenants, settings.base_domain),
        Middleware(RateLimitMiddleware, services.limiter, services.tokens, services.tenants, services.principals),
        Middleware(DirectMiddleware, routes()),
    ]


def cors_of(settings: Settings) -> dict[str, Any]:
    """Return what browsers of other origins may do. Tokens travel in a header, so no cookies are allowed."""
    return {
        "allow_origins": settings.allowed_origins,
        "allow_methods": ["GET", "POST", "PATCH", "DELETE"],
        "allow_headers": ["Authorization", "Content-Type", "If-Match", "If-None-Match", "Idempotency-Key", "X-Request-ID", "X-Tenant-ID", "X-Tenant-Slug"],
        "expose_headers": EXPOSED,
        "max_age": 600,
    }


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application. Nothing is connected before its lifespan starts."""
    services = Services.from_settings(settings or get_settings())
    app = Application(
        title="Multi-tenant SaaS platform",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
        lifespan=lifespan,
        routes=routes(),
        middleware=middleware_of(services),
    )
    app.state.services = services
    problems.install(app)
    mount_documentation(app)
    describe(app)
    return app


app = create_app()
