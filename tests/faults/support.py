"""Real processes, real servers of one's own, and servers that misbehave on purpose."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from httpx import AsyncClient
from redis.asyncio import Redis

from app.config import Settings
from app.main import create_app
from deploy.local.environment import without_settings
from deploy.local.memory import Memory, free_port
from deploy.local.valkey import ValkeyServer
from tests.clients import client_of

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
# Servers close a connection that was idle for five seconds; who gives it up well before never sends into one that is just being closed.
FRESH = httpx.Limits(keepalive_expiry=1.0)

# A timeout that a busy machine may exceed by itself would make a healthy server count as away, so only tests about hanging use a short one.
HASTY = 0.08


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
    """Ask again and again until the condition holds. Raises `AssertionError` when it never does."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


# ─── Applications in this process ────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def running(settings: Settings, prepare: Callable[[FastAPI], None] = lambda _: None) -> AsyncIterator[tuple[FastAPI, AsyncClient]]:
    """Start another instance of the application, with caches and connections of its own, and a client of it."""
    app = create_app(settings)
    prepare(app)
    lifespan = app.router.lifespan_context(app)
    await lifespan.__aenter__()
    try:
        async with client_of(app, timeout=PATIENCE) as client:
            yield app, client
    finally:
        # Told nothing of a test that failed: the application stops in order, as it would by itself.
        await lifespan.__aexit__(None, None, None)


def changed(settings: Settings, **changes: Any) -> Settings:
    """Return the settings with some of them changed, checked as if they had been read from the environment."""
    return Settings(_env_file=None, **{**settings.model_dump(), **changes})


# ─── Real processes ──────────────────────────────────────────────────────────────────────────────────────────────────


def environment_of(settings: Settings, **changes: Any) -> dict[str, str]:
    """Return the environment variables that give a process these settings."""
    fit = changed(settings, **changes)
    given = {name: getattr(fit, name) for name in {*settings.model_fields_set, *changes}}
    plain = {name.upper(): value.get_secret_value() if hasattr(value, "get_secret_value") else value for name, value in given.items()}
    plain.pop("TIERS", None)
    texts = {name: ",".join(value) if isinstance(value, tuple) else str(value) for name, value in plain.items() if value is not None}
    return {**without_settings(os.environ), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "LOG_FORMAT": "json", **texts}


class Process:
    """A Python process of the service. It runs in a folder without `.env`, and its output goes to a file there."""

    def __init__(self, folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{len(list(folder.iterdir()))}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log's lines, each of which has to be JSON."""
        return [json.loads(line) for line in self.output.splitlines()]

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)

    def wait(self) -> int:
        """Wait until it has ended. Returns the exit code."""
        return self._process.wait(PATIENCE)


@contextmanager
def process(folder: Path, arguments: Sequence[str], environment: dict[str, str]) -> Iterator[Process]:
    """Start a process, and kill it at the end if it has not ended."""
    started = Process(folder, arguments, environment)
    try:
        yield started
    finally:
        started.kill()


class ServerProcess(Process):
    """The API as `python -m app.server`, or as another module that runs it. It answers when the object is there."""

    def __init__(self, folder: Path, environment: dict[str, str], module: str = "app.server") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(folder, ["-m", module, "--port", str(self.port)], environment)
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self.exit_code is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/live", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def server_process(folder: Path, environment: dict[str, str]) -> Iterator[ServerProcess]:
    """Start the API, and kill it at the end if it has not ended."""
    started = ServerProcess(folder, environment)
    try:
        yield started
    finally:
        started.kill()


def run_cli(folder: Path, environment: dict[str, str], *arguments: str) -> str:
    """Run `python -m app.cli` to its end. Returns what it printed."""
    with process(folder, ["-m", "app.cli", *arguments], environment) as command:
        assert command.wait() == 0, command.output
        return command.output


# ─── Servers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Valkey:
    """A Valkey of one's own, to be stopped, frozen, emptied and demoted."""

    def __init__(self, folder: Path) -> None:
        self._server = ValkeyServer(folder, Memory(), durable=False)
        self._server.start()

    @property
    def url(self) -> str:
        return self._server.url

    def stop(self) -> None:
        """Kill it, as a crash would."""
        self._server.stop(hurry=True)

    def start(self) -> None:
        """Start it again, on the same port, and empty."""
        self._server.start()

    def freeze(self) -> None:
        """Have it hang: the kernel goes on accepting connections, and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._server.child is not None and self._server.child.exit_code is None:
            os.kill(self._server.child.process.pid, number)

    async def run(self, *command: str | int) -> Any:
        """Run a command, as an operator would."""
        async with Redis.from_url(self.url) as client:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # untyped in redis-py


@contextmanager
def valkey(folder: Path) -> Iterator[Valkey]:
    """Start a Valkey, and stop it at the end, in whatever state it is."""
    server = Valkey(folder)
    try:
        yield server
    finally:
        server.thaw()
        server.stop()


class Proxy:
    """A TCP proxy that can freeze (it keeps every connection and passes nothing on), cut, refuse, and lose answers; and remembers what clients sent."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.accepted = 0
        self.sent: list[bytes] = []
        self._losing: list[bytes] = []
        self._passing = asyncio.Event()
        self._passing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def freeze(self) -> None:
        self._passing.clear()

    def thaw(self) -> None:
        self._passing.set()

    def lose_answer_to(self, *sent: bytes) -> None:
        """Once clients have sent all of this, one after the other, pass the last on, and break its connection off in the place of the server's answer."""
        self._losing = list(sent)

    @property
    def has_lost_it(self) -> bool:
        """Whether that has happened."""
        return not self._losing

    async def refuse(self) -> None:
        """Break every connection off and take no more, until opened again."""
        assert self._server is not None
        self._server.close()
        self.cut()
        self._server = None

    def cut(self) -> None:
        """Break every connection off."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        """Break everything off for good."""
        if self._server is not None:
            await self.refuse()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        onward: asyncio.StreamWriter | None = None
        try:
            await self._passing.wait()
            back, onward = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers.add(onward)
            answers = asyncio.Event()
            answers.set()
            await asyncio.gather(self._pass_on(reader, onward, answers), self._pass_back(back, writer, answers))
        except (OSError, asyncio.CancelledError):
            pass  # cut off, or closed: this is the end of it either way
        finally:
            for side in (writer, onward):
                if side is not None:
                    self._writers.discard(side)
                    side.transport.abort()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.Event) -> None:
        while data := await reader.read(65536):
            await self._passing.wait()
            self.sent.append(data)
            if self._losing and self._losing[0] in data:
                del self._losing[0]
                if not self._losing:
                    answers.clear()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.Event) -> None:
        while (data := await reader.read(65536)) and answers.is_set():
            await self._passing.wait()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def proxy_to(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """Put a proxy before the server of a URL. Gives the proxy and the URL that leads through it."""
    port = httpx.URL(url).port
    assert port is not None
    proxy = Proxy(port)
    await proxy.open()
    try:
        yield proxy, url.replace(f":{port}", f":{proxy.port}")
    finally:
        await proxy.close()
