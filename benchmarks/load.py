"""Asks a server as fast as it answers: some connections, kept alive, each with one request under way at any time.

It speaks just enough HTTP/1.1 to know where an answer ends (by Content-Length), so that it costs a fraction of what any server does.
"""

import asyncio
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

import uvloop

CONNECTIONS = 32
GRACE_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Load:
    """What to ask of the server on a port. A good answer is a 200 whose body has between `smallest` and `largest` bytes."""

    port: int
    requests: Sequence[bytes]
    smallest: int
    largest: int


@dataclass
class Outcome:
    """What came of it: the time it took and the latency of each answer, in seconds, and how many answers were bad, by what was wrong."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)


def ask_for(seconds: float, load: Load) -> Outcome:
    """Ask for so many seconds, requests chosen at random. Raises `OSError` where nobody listens, `TimeoutError` where nobody answers."""
    deadline = perf_counter() + seconds
    choose = random.Random(20).choice
    return uvloop.run(_run(load, lambda: choose(load.requests) if perf_counter() < deadline else None, seconds + GRACE_SECONDS))


def ask_each_once(load: Load) -> Outcome:
    """Ask each request once. Raises `OSError` where nobody listens, `TimeoutError` where nobody answers."""
    waiting = list(load.requests)
    return uvloop.run(_run(load, lambda: waiting.pop() if waiting else None, len(waiting) / 20 + GRACE_SECONDS))


async def _run(load: Load, next_request: Callable[[], bytes | None], longest: float) -> Outcome:
    outcome, loop = Outcome(), asyncio.get_running_loop()
    started = perf_counter()
    connected = (loop.create_connection(lambda: _Client(load, outcome, next_request), "127.0.0.1", load.port) for _ in range(CONNECTIONS))
    clients = [client for _, client in await asyncio.gather(*connected)]
    await asyncio.wait_for(asyncio.gather(*(client.finished for client in clients)), longest)
    outcome.seconds = perf_counter() - started
    return outcome


class _Client(asyncio.Protocol):
    """One connection: as soon as an answer is complete it asks the next request."""

    def __init__(self, load: Load, outcome: Outcome, next_request: Callable[[], bytes | None]) -> None:
        self.finished = asyncio.get_running_loop().create_future()
        self._load = load
        self._outcome = outcome
        self._next_request = next_request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def _ask(self) -> None:
        request = self._next_request()
        if request is None:
            self.finished.set_result(None)
            self._transport.close()
            return
        self._received, self._head, self._body = b"", 0, 0
        self._sent_at = perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._head:
            self._read_head()
        if self._head and len(self._received) >= self._head + self._body:
            self._outcome.latencies.append(perf_counter() - self._sent_at)
            self._judge()
            self._ask()

    def _read_head(self) -> None:
        end = self._received.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        length = _LENGTH.search(self._received, 0, end)
        if length is None:
            self._transport.abort()
            return
        self._head, self._body = end, int(length[1])

    def _judge(self) -> None:
        status = self._received[9:12].decode("latin-1")
        if status != "200":
            self._outcome.failures[status] += 1
        elif not self._load.smallest <= self._body <= self._load.largest:
            self._outcome.failures[f"{self._body} bytes"] += 1

    def connection_lost(self, error: Exception | None) -> None:
        if not self.finished.done():
            self._outcome.failures["connection lost"] += 1
            self.finished.set_result(None)
