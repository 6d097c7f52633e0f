"""The parts of a running service, made once from the settings."""

from dataclasses import dataclass
from typing import Self

import structlog

from app.config import Settings
from app.core.captcha import Captcha
from app.core.cursors import Cursors
from app.core.derived_tokens import DerivedTokens
from app.core.limits import RateLimiter
from app.core.passwords import PasswordHasher
from app.core.principals import PrincipalDirectory
from app.core.redis import RedisGateway
from app.core.schema_version import SchemaVersion
from app.core.security import AccessTokens
from app.core.stamps import Stamps
from app.core.tenancy import TenantDirectory
from app.core.throttle import Throttle
from app.core.view_counts import ViewCounter
from app.database import Database

# For migrations, backups, and an operator at night.
SPARE_CONNECTIONS = 10
# As many as a worker does at once; each needs one connection at the most, and the clock one.
JOBS_AT_ONCE = 20

log = structlog.get_logger(__name__)


@dataclass
class Readiness:
    """Whether the process takes requests: not before it has started, and no more once it drains."""

    ready: bool = False


@dataclass(frozen=True)
class Services:
    """Everything that outlives a request."""

    settings: Settings
    database: Database
    redis: RedisGateway
    limiter: RateLimiter
    stamps: Stamps
    tenants: TenantDirectory
    principals: PrincipalDirectory
    tokens: AccessTokens
    derived_tokens: DerivedTokens
    passwords: PasswordHasher
    throttle: Throttle
    captcha: Captcha
    cursors: Cursors
    views: ViewCounter
    schema: SchemaVersion
    readiness: Readiness

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Make all parts. Nothing is connected yet."""
        database = Database(
            settings.service_url,
            pool_size=settings.database_pool_size,
            max_overflow=settings.database_max_overflow,
            pool_timeout=settings.database_pool_timeout,
            connect_timeout=settings.database_connect_timeout,
        )
        redis = RedisGateway(settings.redis_url.get_secret_value(), timeout=settings.redis_timeout, max_connections=settings.redis_max_connections)
        return cls(
            settings=settings,
            database=database,
            redis=redis,
            limiter=RateLimiter(redis, settings),
            stamps=Stamps(redis),
            tenants=TenantDirectory(database),
            principals=PrincipalDirectory(database),
            tokens=AccessTokens(settings),
            derived_tokens=DerivedTokens(settings),
            passwords=PasswordHasher(settings.password_hash_rounds),
            throttle=Throttle(redis),
            captcha=Captcha(settings, database),
            cursors=Cursors(settings),
            views=ViewCounter(redis),
            schema=SchemaVersion(database),
            readiness=Readiness(),
        )

    async def close(self) -> None:
        """Give back every connection and thread."""
        await self.views.close()
        await self.redis.close()
        await self.database.close()
        self.passwords.close()


async def log_connections(services: Services, *, besides: int = 0) -> None:
    """Log how many connections this process may take of those that PostgreSQL allows; loudly where that is too many.

    `besides` is how many it takes beside its pool. Raises `DatabaseFault`, and `UnsafeRole`.
    """
    most, allowed = services.database.most_connections + besides, await services.database.connections_allowed()
    write = log.info if most <= allowed - SPARE_CONNECTIONS else log.warning
    write("database connections: the pools of all processes together must stay below", this_process=most, all_processes=allowed - SPARE_CONNECTIONS)


def worker_pool(settings: Settings) -> dict[str, int]:
    """Return the settings of a worker's pool, by name: no larger than the jobs that it does at once need."""
    return {"database_pool_size": min(settings.database_pool_size, JOBS_AT_ONCE), "database_max_overflow": min(settings.database_max_overflow, 1)}
