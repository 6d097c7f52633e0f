"""Runs everything that one developer needs: servers, migrations, the demo tenant, the API and the worker. Behind `make run`.

Order of life: the lock of this checkout, what a killed supervisor left, servers, commands, API and worker; and back in order. The
first SIGINT or SIGTERM stops all of it in order, the second at once. When any child ends by itself, everything ends.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from urllib.error import URLError

from deploy.local.banner import banner
from deploy.local.errors import LocalError, PortTaken, ServerFailed
from deploy.local.lock import only_one
from deploy.local.memory import Memory
from deploy.local.postgres import OWNER, SERVICE, PostgresServer
from deploy.local.preparation import MIGRATE, PREPARE, SEED, describe_exit, run_command
from deploy.local.processes import Child, listener, stop_leftover, wait_until
from deploy.local.targets import Targets
from deploy.local.terminal import Terminal
from deploy.local.valkey import ValkeyServer

DATABASE = "saas"
_READY_SECONDS = 90.0
_TAIL_LINES = 15


class Stopped(Exception):
    """The developer asked to stop."""


class Supervisor:
    """One run of everything, in the checkout `root`, with the API on `port` of 127.0.0.1."""

    def __init__(self, root: Path, port: int, terminal: Terminal) -> None:
        self.root = root
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.directory = root / ".local"
        self.terminal = terminal
        self._stopping = threading.Event()
        self._children: list[Child] = []
        self._tails: dict[str, deque[str]] = {}
        self._readers: list[threading.Thread] = []

    def run(self) -> None:
        """Run until somebody asks to stop. Raises a `LocalError` when something does not start or ends by itself."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means to go on without a terminal
            signal.signal(signal.SIGHUP, self._on_signal)
        with only_one(self.directory / "lock", self.url):
            try:
                self._run()
            except Stopped:
                pass
            except LocalError:
                # Who asks to stop in the middle of a start does not want to hear that something did not start.
                if not self._stopping.is_set():
                    raise

    def _run(self) -> None:
        self._recover()
        self._check_port()
        targets = Targets.from_settings()
        memory = Memory.load(self.directory / "servers.json")
        memory.save(self.directory / "servers.json")
        with contextlib.ExitStack() as started:
            environment = self._environment(targets)
            environment |= self._start_postgres(targets, memory, started)
            environment |= self._start_valkey(targets, memory, started)
            memory.save(self.directory / "servers.json")
            self._prepare(environment, demo=targets.environment != "production")
            environment.pop("DATABASE_ADMIN_URL")  # for the commands above alone
            worker = self._start_service("worker", ["-m", "app.jobs.worker"], environment, started)
            api = self._start_service("api", ["-m", "app.server", "--host", "127.0.0.1", "--port", str(self.port)], environment, started)
            with self._step(f"API and worker on {self.url}"):
                self._wait_until_ready(api, worker)
            self.terminal.say(banner(self.url, demo=targets.environment != "production"), markup=False)
            self._watch()

    def _recover(self) -> None:
        """Stop what a supervisor that was killed has left behind."""
        run = self.directory / "run"
        left = [name for name in ("api", "worker", PREPARE.name, MIGRATE.name, SEED.name) if stop_leftover(run / f"{name}.pid", signal.SIGTERM)]
        if left:
            self.terminal.say(f"Stopped what an earlier run left behind: {', '.join(left)}.")

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except PermissionError:
                raise PortTaken(f"Port {self.port} is for root alone: take another, such as 'PORT=8001 make run'.") from None
            except OSError:
                who = listener(self.port)
                other = self.port + 1 if self.port < 65535 else 8000
                raise PortTaken(f"Port {self.port} is taken{f' by {who}' if who else ''}: stop that, or take another: 'PORT={other} make run'.") from None

    def _environment(self, targets: Targets) -> dict[str, str]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PUBLIC_URL": targets.public_url or self.url}
        if targets.log_format == "auto":
            environment["LOG_FORMAT"] = "console"
        return environment

    def _start_postgres(self, targets: Targets, memory: Memory, started: contextlib.ExitStack) -> dict[str, str]:
        server = PostgresServer(self.directory, memory)
        if targets.database_url and targets.database_admin_url:
            server.recover()
            self.terminal.say("PostgreSQL is the one that DATABASE_URL names.")
            return {"DATABASE_URL": targets.database_url, "DATABASE_ADMIN_URL": targets.database_admin_url}
        with self._step("PostgreSQL 18" if server.data.exists() else "PostgreSQL 18, with new data"):
            started.callback(self._stop_server, server)
            server.start()
            self._watch_over(server.child)
        return {
            "DATABASE_URL": server.url(SERVICE, memory.service_password, DATABASE),
            "DATABASE_ADMIN_URL": server.url(OWNER, memory.owner_password, DATABASE),
        }

    def _start_valkey(self, targets: Targets, memory: Memory, started: contextlib.ExitStack) -> dict[str, str]:
        server = ValkeyServer(self.directory, memory)
        if targets.redis_url:
            server.recover()
            self.terminal.say("Redis is the one that REDIS_URL names.")
            return {"REDIS_URL": targets.redis_url}
        with self._step("Valkey 9"):
            started.callback(self._stop_server, server)
            server.start()
            self._watch_over(server.child)
        return {"REDIS_URL": server.url}

    def _prepare(self, environment: dict[str, str], *, demo: bool) -> None:
        for command in (PREPARE, MIGRATE, *([SEED] if demo else [])):
            with self._step(command.title):
                run_command(command, root=self.root, directory=self.directory, environment=environment, stop=self._stopping.is_set)
        self._stop_if_asked()

    def _start_service(self, name: str, arguments: list[str], environment: dict[str, str], started: contextlib.ExitStack) -> Child:
        """Start the API or the worker, and show its lines from now on."""
        argv = [sys.executable, *arguments]
        child = Child(name, argv, output=subprocess.PIPE, cwd=self.root, pid_file=self.directory / "run" / f"{name}.pid", environment=environment)
        started.callback(self._stop_service, child)
        self._watch_over(child)
        self._tails[name] = deque(maxlen=_TAIL_LINES)
        reader = threading.Thread(target=self._read, args=(child,), daemon=True)
        reader.start()
        self._readers.append(reader)
        return child

    def _read(self, child: Child) -> None:
        assert child.process.stdout is not None  # noqa: S101 (it was started with a pipe)
        for line in child.process.stdout:
            text = line.decode(errors="replace").rstrip()
            self._tails[child.name].append(text)
            self.terminal.child_line(child.name, text)

    def _wait_until_ready(self, *children: Child) -> None:
        def done() -> bool:
            return self._stopping.is_set() or any(child.exit_code is not None for child in children) or self._is_ready()

        if not wait_until(done, _READY_SECONDS, poll=0.1):
            raise ServerFailed(f"{self.url}/health/ready did not become ready within {_READY_SECONDS:.0f} seconds.")
        self._stop_if_asked()
        self._fail_if_one_ended()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health/ready", timeout=5) as answer:  # noqa: S310 (our own address)
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            self._fail_if_one_ended()

    def _fail_if_one_ended(self) -> None:
        for child in self._children:
            if child.exit_code is not None:
                for reader in self._readers:
                    reader.join(0.5)  # its last lines may still be on their way
                tail = self._tails.get(child.name)
                said = "".join(f"\n    {line}" for line in tail) if tail else f" Its log is {self.directory / 'log' / f'{child.name.lower()}.log'}."
                raise ServerFailed(f"{child.name} ended by itself ({describe_exit(child.exit_code)}), so everything else was stopped.{said}")

    def _watch_over(self, child: Child | None) -> None:
        if child:
            self._children.append(child)

    def _stop_service(self, child: Child) -> None:
        if child.exit_code is None:
            self.terminal.say(f"Stopping {child.name} …")
        child.stop()

    def _stop_server(self, server: PostgresServer | ValkeyServer) -> None:
        if server.child:
            if server.child.exit_code is None:
                self.terminal.say(f"Stopping {server.child.name} …")
            server.stop()

    @contextlib.contextmanager
    def _step(self, title: str) -> Iterator[None]:
        self._stop_if_asked()
        with self.terminal.step(title):
            yield
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._stopping.is_set():
            raise Stopped

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._stopping.is_set():
            for child in self._children:
                child.hurry()
        self._stopping.set()


def run(root: Path, port: int) -> int:
    """Run everything; return the exit code: 0 when it was asked to stop, 1 with one sentence when something failed."""
    terminal = Terminal()
    try:
        Supervisor(root, port, terminal).run()
    except LocalError as error:
        terminal.fail(str(error))
        return 1
    terminal.say("Stopped. The data stays in .local.")
    return 0
