"""One connection to Redis for all requests of the process: what they send in one turn of the event loop travels in one write, and so do the answers.

redis-py takes a connection out of a pool for each command, which costs more than all else that a request does with Redis (docs/adr/0007). It still
reads the URL here, and does everything that is not done for each request.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError, ResponseError, TimeoutError  # noqa: A004 (redis-py's names)

# After a turn in which the loop was held up, the answer may have been there all the time: it gets to look before it gives up.
GRACE_SECONDS = 0.02

Answer = asyncio.Future[Any]


class RedisPipeline:
    """Sends commands without waiting for the answers to those before. Connects when it is first used, and again after a failure."""

    def __init__(self, url: str, timeout: float, when_lost: Callable[[], None]) -> None:
        """`timeout` is how long, in seconds, connecting may take, and any answer. `when_lost` is called when a connection has ended."""
        self._options: dict[str, Any] = dict(parse_url(url))
        self._timeout = timeout
        self._when_lost = when_lost
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether commands can be sent at once."""
        return self._connection is not None and self._connection.is_open

    async def connect(self) -> None:
        """Connect, unless that is done. All who ask meanwhile wait for the same attempt. Raises redis-py's errors and `OSError`."""
        if self.is_connected:
            return
        # In no request's context: the connection outlives the one that happens to need it first.
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.create_task(self._connect(), context=Context())
            self._connecting.add_done_callback(_retrieve)
        # Shielded: whoever gives up waiting must not break it off for the others.
        await asyncio.shield(self._connecting)

    def send(self, command: bytes) -> Answer:
        """Send a command that is packed, and return its answer to come. Raises redis-py's `ConnectionError` where there is no connection."""
        if self._connection is None:
            raise ConnectionError("not connected")
        return self._connection.send(command)

    def drop(self) -> None:
        """End the connection, so that the next use makes another; whoever still waits is told `ConnectionError`."""
        if self._connection is not None:
            self._connection.fail(ConnectionError("closed"))

    def close(self) -> None:
        """Do the same for good."""
        if self._connecting is not None:
            self._connecting.cancel()
        self.drop()

    async def _connect(self) -> None:
        options, loop = self._options, asyncio.get_running_loop()
        connection = _Connection(loop, self._timeout, self._when_lost)
        secure = ssl.create_default_context() if options.get("connection_class") is SSLConnection else None
        try:
            async with asyncio.timeout(self._timeout + GRACE_SECONDS):
                if "path" in options:
                    await loop.create_unix_connection(lambda: connection, options["path"])
                else:
                    await loop.create_connection(lambda: connection, options.get("host", "localhost"), options.get("port", 6379), ssl=secure)
                if "password" in options:
                    user = (options["username"],) if options.get("username") else ()
                    await connection.send(pack("AUTH", *user, options["password"]))
                await connection.send(pack("SELECT", options.get("db", 0)))
        except BaseException:
            # A connection that never got to choose its database must not be used: it would write to another one.
            connection.fail(ConnectionError("could not connect"))
            raise
        self._connection = connection


class _Connection(asyncio.Protocol):
    """One connection, from its making to its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float, when_lost: Callable[[], None]) -> None:
        self._loop = loop
        self._timeout = timeout
        self._when_lost = when_lost
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[tuple[Answer, float]] = deque()
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._overdue = False

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, command: bytes) -> Answer:
        if self._transport is None:
            raise ConnectionError("Redis closed the connection")
        answer: Answer = self._loop.create_future()
        self._waiting.append((answer, self._loop.time()))
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent.append(command)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout, self._look_at_the_clock)
        return answer

    def flush(self) -> None:
        if self._unsent and self._transport is not None:
            self._transport.write(b"".join(self._unsent))
        self._unsent.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a Transport, for a stream

    def data_received(self, data: bytes) -> None:
        self._overdue = False
        self._reader.feed(data)
        try:
            while self._waiting and (reply := self._reader.gets()) is not False:
                self._give(reply)
        except hiredis.ProtocolError as error:
            self.fail(ConnectionError(str(error)))

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(ConnectionError("Redis closed the connection"))

    def fail(self, error: Exception) -> None:
        """End the connection, and tell everybody who waits."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
            self._when_lost()
        if self._timer is not None:
            self._timer.cancel()
        self._unsent.clear()
        while self._waiting:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)

    def _give(self, reply: object) -> None:
        """Give an answer to whoever has waited longest; who has stopped waiting leaves it unread."""
        answer, _ = self._waiting.popleft()
        if answer.done():
            return
        if isinstance(reply, hiredis.ReplyError):
            answer.set_exception(ResponseError(str(reply)))
        else:
            answer.set_result(reply)

    def _look_at_the_clock(self) -> None:
        """Give the connection up when its oldest answer is overdue, and still is after the grace."""
        self._timer = None
        if not self._waiting:
            return
        left = self._waiting[0][1] + self._timeout - self._loop.time()
        if left <= 0 and self._overdue:
            self.fail(TimeoutError("no answer in time"))
            return
        self._overdue = left <= 0
        self._timer = self._loop.call_later(GRACE_SECONDS if self._overdue else left, self._look_at_the_clock)


def pack(*command: str | int) -> bytes:
    """Return the command in the form in which it travels."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed


def _retrieve(task: asyncio.Task[None]) -> None:
    """Have an error counted as seen: whoever waited was told, and there may be nobody any more."""
    if not task.cancelled():
        task.exception()
