"""Redis behind a circuit breaker: when it is away, that costs one request a short wait and the following ones nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, ClusterDownError, ConnectionError, MasterDownError, ReadOnlyError, TimeoutError  # noqa: A004 (redis-py's names)

from app.utils import metrics

PROBE_SECONDS = 1.0
CATCH_UP_SECONDS = 5.0
AWAY = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, ClusterDownError, MasterDownError, OSError, asyncio.TimeoutError)

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class RedisAway(Exception):
    """Redis did not answer in time, or is known to be away."""


class RedisGateway:
    """A Redis client whose breaker opens at the first failure and closes when a probe, once a second, gets an answer."""

    def __init__(self, url: str, *, timeout: float, max_connections: int) -> None:
        """Make the client; nothing is connected yet. `timeout` is the most, in seconds, that any one call may take."""
        self._timeout = timeout
        # No time-outs of redis-py's own: `call` has one for everything, and on Python 3.11 each of redis-py's costs a task.
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url, max_connections=max_connections, timeout=None, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0)
        )
        self.client: Redis = Redis(connection_pool=pool)
        self._probe: asyncio.Task[None] | None = None
        self._on_away: list[Callable[[], None]] = []
        self._on_return: list[Callable[[], Awaitable[None]]] = []

    @property
    def is_away(self) -> bool:
        """Whether the breaker is open."""
        return self._probe is not None

    def when_away(self, action: Callable[[], None]) -> None:
        """Have `action` called each time the breaker opens."""
        self._on_away.append(action)

    def when_back(self, action: Callable[[], Awaitable[None]]) -> None:
        """Have `action` awaited each time Redis answers again, just before the breaker closes."""
        self._on_return.append(action)

    async def call(self, operation: Callable[[Redis], Awaitable[Result]], timeout: float | None = None) -> Result:  # noqa: ASYNC109 (the breaker needs to see it)
        """Run one operation, within `timeout` seconds where that is not the usual. Raises `RedisAway`."""
        if self._probe is not None:
            raise RedisAway
        try:
            async with asyncio.timeout(timeout or self._timeout):
                return await operation(self.client)
        except AWAY as error:
            self._open(error)
            raise RedisAway from error

    async def close(self) -> None:
        """Stop probing and close every connection."""
        if self._probe is not None:
            self._probe.cancel()
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    def _open(self, error: BaseException) -> None:
        if self._probe is None:
            log.warning("redis is away", error=type(error).__name__)
            metrics.REDIS_AWAY.set(1)
            self._probe = asyncio.get_running_loop().create_task(self._probe_until_back())
            for action in self._on_away:
                action()

    async def _probe_until_back(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                async with asyncio.timeout(self._timeout):
                    await self.client.ping()
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    for action in self._on_return:
                        await action()
            except AWAY:
                continue
            self._probe = None
            metrics.REDIS_AWAY.set(0)
            log.info("redis is back")
            return
