"""Redis behind a circuit breaker: when it is away, that costs one request a short wait and the following ones nothing."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar

import structlog
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from app.core.redis_pipeline import GRACE_SECONDS, RedisPipeline, pack
from app.utils import metrics

PROBE_SECONDS = 1.0
CATCH_UP_SECONDS = 5.0
# Refusals too: a server that is a replica for the moment, or out of memory, is of no more use than none.
AWAY = (RedisError, OSError)
# The probe has to write: a server that refuses that answers a PING all the same.
PROBE_KEY = "{probe}"

Result = TypeVar("Result")
log = structlog.get_logger(__name__)


class RedisAway(Exception):
    """Redis did not answer in time, or is known to be away."""


class Script:
    """A Lua script, and the name under which Redis knows it once it is loaded."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class PackedCall:
    """A script with all that it takes, in the form in which it travels: packed once, to be sent again and again."""

    __slots__ = ("packed", "script")

    def __init__(self, script: Script, *arguments: str | int) -> None:
        """`arguments` are the number of keys, the keys, and what else the script takes."""
        self.script = script
        self.packed = pack("EVALSHA", script.digest, *arguments)

    def with_text(self) -> bytes:
        """Return the same call with the script itself in place of its name."""
        name, text = pack("EVALSHA", self.script.digest), pack("EVAL", self.script.text)
        # Behind each one's number of parts, which is not the whole call's.
        return self.packed.replace(name[name.index(b"\n") + 1 :], text[text.index(b"\n") + 1 :], 1)


class RedisGateway:
    """A Redis client whose breaker opens at the first failure and closes when a probe, once a second, gets an answer."""

    def __init__(self, url: str, *, timeout: float, max_connections: int) -> None:
        """Make the client; nothing is connected yet. `timeout` is the most, in seconds, that any one call may take."""
        self._timeout = timeout
        # No time-outs of redis-py's own: `call` has one for everything, and on Python 3.11 each of redis-py's costs a task.
        pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
            url, max_connections=max_connections, timeout=None, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 1)
        )
        self.client: Redis = Redis(connection_pool=pool)
        self._pipeline = RedisPipeline(url, timeout, self._begin_epoch)
        self._probe: asyncio.Task[None] | None = None
        self._epoch = 0
        self._on_return: list[Callable[[], Awaitable[None]]] = []

    @property
    def is_away(self) -> bool:
        """Whether the breaker is open."""
        return self._probe is not None

    @property
    def epoch(self) -> int:
        """Changes when the connection is lost and when the breaker opens: what Redis says from then on may be older than what it has said, or another's."""
        return self._epoch

    def when_back(self, action: Callable[[], Awaitable[None]]) -> None:
        """Have `action` awaited each time Redis answers again, just before the breaker closes."""
        self._on_return.append(action)

    async def call(self, operation: Callable[[Redis], Awaitable[Result]], timeout: float | None = None) -> Result:  # noqa: ASYNC109 (the breaker needs to see it)
        """Run one operation, within `timeout` seconds where that is not the usual. Raises `RedisAway`."""
        if self.is_away:
            raise RedisAway
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as limit:
                # A loop that was held up finds the timer due before it has looked whether the answer is there: it gets to look first.
                timer = loop.call_later(timeout or self._timeout, lambda: limit.reschedule(loop.time() + GRACE_SECONDS))
                try:
                    return await operation(self.client)
                finally:
                    timer.cancel()
        except AWAY as error:
            self.failed(error)
            raise RedisAway from error

    async def run(self, script: Script, *arguments: str | int) -> Any:
        """Run a script; `arguments` are its number of keys, the keys, and what else it takes. Raises `RedisAway`."""
        return await self.run_packed(PackedCall(script, *arguments))

    async def run_packed(self, call: PackedCall) -> Any:
        """Run a script. Raises `RedisAway`."""
        if self._probe is not None:
            raise RedisAway
        try:
            if not self._pipeline.is_connected:
                await self._pipeline.connect()
            try:
                return await self._pipeline.send(call.packed)
            except ResponseError as error:
                # A restarted server has forgotten its scripts; EVAL has it remember.
                if not str(error).startswith("NOSCRIPT"):
                    raise
                return await self._pipeline.send(call.with_text())
        except AWAY as error:
            self.failed(error)
            raise RedisAway from error

    async def post(self, *command: str | int) -> asyncio.Future[Any]:
        """Send a command, and return its answer to come, for who wants it. Raises `RedisAway`.

        It is in the socket before whoever awaits anything after this goes on: writing it is the next thing that the event loop does.
        """
        if self.is_away:
            raise RedisAway
        try:
            if not self._pipeline.is_connected:
                await self._pipeline.connect()
            return self._pipeline.send(pack(*command))
        except AWAY as error:
            self.failed(error)
            raise RedisAway from error

    async def close(self) -> None:
        """Stop probing and close every connection."""
        if self._probe is not None:
            self._probe.cancel()
            with suppress(asyncio.CancelledError):
                await self._probe
        self._pipeline.close()
        await self.client.aclose()
        await self.client.connection_pool.disconnect()

    def failed(self, error: BaseException) -> None:
        """Open the breaker: Redis has not done what it was asked."""
        if self._probe is None:
            log.warning("redis is away", error=type(error).__name__)
            metrics.REDIS_AWAY.set(1)
            # Not in the context of whoever met the failure: what is logged from then on is not about that request.
            self._probe = asyncio.get_running_loop().create_task(self._probe_until_back(), context=Context())
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._epoch += 1

    async def _probe_until_back(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            try:
                # A connection whose making was cut short may never have chosen its database, and one that was made before a failover leads to what is a
                # replica now: none from before is used again.
                self._pipeline.drop()
                await self.client.connection_pool.disconnect(inuse_connections=False)
                async with asyncio.timeout(self._timeout):
                    await self.client.set(PROBE_KEY, 1, px=1000)
                async with asyncio.timeout(CATCH_UP_SECONDS):
                    for action in self._on_return:
                        await action()
            except AWAY:
                continue
            self._probe = None
            metrics.REDIS_AWAY.set(0)
            log.info("redis is back")
            return
