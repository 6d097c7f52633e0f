"""The two servers that are compared: the service as it runs in production, and the bare handler. One process each."""

import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path

import psutil

from deploy.local.logs import last_lines
from deploy.local.memory import free_port
from deploy.local.processes import Child, wait_until

ROOT = Path(__file__).parents[1]
START_SECONDS = 60.0
SECRET = "a-secret-for-the-benchmark-alone, long enough"


class BenchmarkFailed(RuntimeError):
    """What was measured is not what was meant to be."""


@dataclass(frozen=True)
class Contender:
    """A running server."""

    name: str
    port: int
    process: psutil.Process
    log: Path

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def ask(self, request: bytes) -> bytes:
        """Return the body of one answer. Raises `BenchmarkFailed` unless it is a 200."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            response = HTTPResponse(connection)
            response.begin()
            body = response.read(int(response.headers["content-length"]))
        if response.status != 200:
            raise BenchmarkFailed(f"{self.name} answered {response.status} to {request.splitlines()[0].decode()}: {body.decode()}")
        return body


@dataclass(frozen=True)
class Cores:
    """Which processors the server under test has for itself, and which the load, PostgreSQL and Valkey share."""

    server: frozenset[int]
    others: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> "Cores | None":
        """Return them, or None where there are fewer than two or processes cannot be pinned."""
        if not hasattr(os, "sched_getaffinity"):
            return None
        first, *others = sorted(os.sched_getaffinity(0))
        return cls(frozenset({first}), frozenset(others)) if others else None


def production(service_url: str, redis_url: str) -> dict[str, str]:
    """Return the environment of a service that runs as in production, on these servers."""
    return {
        "ENVIRONMENT": "production",
        "ALLOWED_HOSTS": "127.0.0.1",
        "BASE_DOMAIN": "example.com",
        "SECRET_KEY": SECRET,
        "PUBLIC_URL": "https://example.com",
        "SMTP_URL": "smtp://127.0.0.1:1",
        "MAIL_FROM": "Benchmark <no-reply@bench.example.com>",
        "DATABASE_URL": service_url,
        "REDIS_URL": redis_url,
        "LOG_FORMAT": "json",
    }


@contextmanager
def running(name: str, command: Sequence[str], folder: Path, cores: Cores | None, environment: Mapping[str, str]) -> Iterator[Contender]:
    """Run `python <command> --port …` in a folder for as long as the block. Raises `BenchmarkFailed` where it does not start.

    It gets this environment alone, and finds no `.env` in its folder, so that no setting of the developer's counts.
    """
    port, log = free_port(), folder / "log" / f"{name}.log"
    with log.open("wb") as output:
        child = Child(
            name,
            [sys.executable, *command, "--port", str(port)],
            output=output,
            cwd=folder,
            pid_file=folder / "run" / f"{name}.pid",
            # At SIGINT Python ends in order: a profiler has its results to write.
            stop_signal=signal.SIGINT,
            environment={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        )
    try:
        if cores is not None:
            os.sched_setaffinity(child.process.pid, cores.server)
        wait_until(lambda: child.exit_code is not None or _listens(port), START_SECONDS)
        if child.exit_code is not None or not _listens(port):
            raise BenchmarkFailed(f"{name} did not start: {last_lines(log.read_text(errors='replace'), 5)}")
        yield Contender(name, port, psutil.Process(child.process.pid), log)
    finally:
        child.stop()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
