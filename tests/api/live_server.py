"""The service as a process of its own, for what only shows on the wire."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from app.config import Settings

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """A response as it came over the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class LiveServer:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @classmethod
    @contextmanager
    def of(cls, settings: Settings, environment: dict[str, str]) -> Iterator[Self]:
        """Start a server with these settings, wait until it is ready, and stop it at the end."""
        port = _free_port()
        values = {
            "ENVIRONMENT": "test",
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "REDIS_URL": settings.redis_url.get_secret_value(),
            "REDIS_TIMEOUT": "2",
            "PASSWORD_HASH_ROUNDS": "4",
            "ANONYMOUS_REQUESTS_PER_MINUTE": "1000000",
            "ANONYMOUS_BURST": "1000000",
            "DATABASE_POOL_SIZE": "5",
            "DATABASE_MAX_OVERFLOW": "15",
            "LOG_LEVEL": "ERROR",
            "PATH": os.environ["PATH"],
            **environment,
        }
        process = subprocess.Popen([sys.executable, "-m", "app.server", "--port", str(port)], cwd=ROOT, env=values, stdout=subprocess.DEVNULL)
        try:
            server = cls(port, process)
            server._wait_until_ready()
            yield server
        finally:
            process.kill()
            process.wait()

    def send(self, *parts: bytes, timeout: float = PATIENCE_SECONDS) -> Answer:
        """Write the parts as they are, and read one response. Raises `TimeoutError` where none comes."""
        return self.stream(parts, timeout=timeout)[0]

    def stream(self, parts: Iterable[bytes], timeout: float = PATIENCE_SECONDS) -> tuple[Answer, int]:
        """Write the parts until the server has had enough. Returns its response, and how many bytes it took."""
        sent = 0
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            try:
                for part in parts:
                    connection.sendall(part)
                    sent += len(part)
            except (BrokenPipeError, ConnectionResetError):
                pass
            return _read_answer(connection), sent

    def exchange(self, *parts: bytes, pause: float = 0.05, timeout: float = PATIENCE_SECONDS) -> list[Answer]:
        """Write the parts as segments of their own, and return all answers until the server has closed the connection. A reset is a `ConnectionResetError`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
            received = b"".join(iter(lambda: connection.recv(65_536), b""))
        return answers_in(received)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended before it was ready"
            try:
                if self.send(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError("the server did not become ready")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers_in(received: bytes) -> list[Answer]:
    """Take apart what came over a connection."""
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        answer = _answer_of(head)
        length = int(answer.headers.get("content-length", 0))
        answers.append(replace(answer, body=received[:length]))
        received = received[length:]
    return answers


def _read_answer(connection: socket.socket) -> Answer:
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65_536)
        if not more:
            raise ConnectionError(f"the server hung up after {received!r}")
        received += more
    head, _, body = received.partition(b"\r\n\r\n")
    answer = _answer_of(head)
    while len(body) < int(answer.headers.get("content-length", 0)) and (more := connection.recv(65_536)):
        body += more
    return replace(answer, body=body)


def _answer_of(head: bytes) -> Answer:
    status_line, *lines = head.decode("latin-1").split("\r\n")
    found = re.match(r"HTTP/1\.[01] (\d{3})", status_line)
    assert found is not None, status_line
    return Answer(int(found[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, b"")
