"""`python -m deploy.local run`, whole: in a checkout of its own, below a folder that its owner alone may enter."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest

from deploy.local.memory import Memory, free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 120.0


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Path]:
    """A folder that looks like this checkout, with a `.local` of its own and no `.env`. Nothing may be left running in it."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("app", "alembic", "alembic.ini", "deploy"):
        (folder / name).symlink_to(ROOT / name)
    tmp_path.chmod(0o700)
    yield folder
    left = processes_of(folder)
    for process in left:
        process.kill()
    assert not left


class Run:
    """One `python -m deploy.local run`, with what it says."""

    def __init__(self, checkout: Path, port: int, environment: Mapping[str, str]) -> None:
        self.port = port
        self.lines: list[str] = []
        self._fresh: queue.Queue[str | None] = queue.Queue()
        inherited = {name: value for name, value in os.environ.items() if not name.endswith("_URL")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "run", "--port", str(port)],
            cwd=checkout,
            env={**inherited, "PASSWORD_HASH_ROUNDS": "4", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as said:
            for line in said:
                self._fresh.put(line)
        self._fresh.put(None)

    def end(self) -> None:
        """Stop it where it still runs."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        self._reader.join()

    def wait_for(self, text: str) -> str:
        """Return the line that holds the text, as soon as it is there."""
        deadline = time.monotonic() + PATIENCE
        while (line := self._fresh.get(timeout=max(0.1, deadline - time.monotonic()))) is not None:
            self.lines.append(line.rstrip("\n"))
            if text in line:
                return self.lines[-1]
        raise AssertionError(f"it ended without saying {text!r}:\n{self.output}")

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join()
        self.lines += [line.rstrip("\n") for line in iter(self._fresh.get, None)]
        return code

    @property
    def output(self) -> str:
        return "\n".join(self.lines)


@contextmanager
def running(checkout: Path, port: int | None = None, environment: Mapping[str, str] | None = None) -> Iterator[Run]:
    """Start it, and stop it at the end where the test has not."""
    run = Run(checkout, port or free_port(), environment or {})
    try:
        yield run
    finally:
        run.end()


def processes_of(checkout: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline", "cwd"])
        if str(checkout) in " ".join(process.info["cmdline"] or ()) or (process.info["cwd"] or "").startswith(str(checkout))
    ]


def pids(checkout: Path) -> dict[str, int]:
    return {path.stem: json.loads(path.read_text())["pid"] for path in (checkout / ".local" / "run").glob("*.pid")}


def demo_tenant(checkout: Path) -> object:
    memory = Memory.load(checkout / ".local" / "servers.json")
    connection = psycopg2.connect(f"postgresql://saas_owner:{memory.owner_password}@127.0.0.1:{memory.postgres_port}/saas")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT id, created_at FROM tenants WHERE slug = 'acme'")
        row = cursor.fetchone()
    connection.close()
    return row


def test_it_runs_until_sigterm_and_leaves_no_process(checkout: Path) -> None:
    with running(checkout) as run:
        command = run.wait_for("curl -s")
        with urllib.request.urlopen(f"http://127.0.0.1:{run.port}/health/ready") as answer:
            assert answer.status == 200
        pasted = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert [project["status"] for project in json.loads(pasted.stdout)["items"]], "the printed command lists the demo's projects"
        assert set(pids(checkout)) == {"postgres", "valkey", "worker", "api"}

        with running(checkout) as second:
            assert second.wait() == 1
        assert f"already runs in this checkout on http://127.0.0.1:{run.port} (pid {run.process.pid})" in second.output

        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0
        stopped = re.findall(r"^Stopping (\w+)", run.output, re.MULTILINE)
        assert stopped == ["api", "worker", "Valkey", "PostgreSQL"]
        assert not processes_of(checkout)


def test_after_a_kill_the_next_run_has_the_data_and_a_dead_worker_ends_everything(checkout: Path) -> None:
    with running(checkout) as run:
        run.wait_for("Ready:")
        before = demo_tenant(checkout)
        for pid in (run.process.pid, *pids(checkout).values()):
            os.kill(pid, signal.SIGKILL)
    with running(checkout, run.port) as run:
        run.wait_for("Ready:")
        assert before is not None
        assert demo_tenant(checkout) == before
        os.kill(pids(checkout)["worker"], signal.SIGKILL)
        assert run.wait() == 1
        assert "worker ended by itself (killed by signal 9)" in run.output
        assert "worker started" in run.output[run.output.index("ended by itself") :], "the tail of its log is shown"


def test_ctrl_c_in_the_middle_of_the_start_stops_what_has_begun(checkout: Path) -> None:
    with running(checkout) as run:
        run.wait_for("Database and the service's role")
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 0
        assert not processes_of(checkout)


def test_a_second_signal_stops_at_once_what_would_take_its_time(checkout: Path) -> None:
    with running(checkout) as run:
        run.wait_for("Ready:")
        with socket.create_connection(("127.0.0.1", run.port)) as slow:
            slow.sendall(b"POST /api/v1/auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
            run.process.send_signal(signal.SIGTERM)
            run.wait_for("Shutting down")
            run.process.send_signal(signal.SIGTERM)
            assert run.wait() == 0
    assert "Finished server process" not in run.output
    assert not processes_of(checkout)


def test_a_port_that_is_taken_is_one_sentence_with_another_port(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        with running(checkout, port) as run:
            assert run.wait() == 1
    assert re.fullmatch(rf"✗ Port {port} is taken by .*, pid {os.getpid()}: stop that, or take another: 'PORT={port + 1} make run'\.", run.output)


def test_a_server_that_cannot_be_reached_is_one_sentence(checkout: Path) -> None:
    with running(checkout, environment={"REDIS_URL": "redis://127.0.0.1:1/0"}) as run:
        assert run.wait() == 1
    assert run.output == "✗ Nothing answers on 127.0.0.1:1, which REDIS_URL names (Connection refused)."


def test_a_command_that_fails_says_why_and_stops_the_servers(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and closes: no PostgreSQL
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        threading.Thread(target=hang_up, args=(silent,), daemon=True).start()
        urls = {"DATABASE_URL": f"postgresql://service:x@{address}/saas", "DATABASE_ADMIN_URL": f"postgresql://owner:x@{address}/saas"}
        with running(checkout, environment=urls) as run:
            assert run.wait() == 1
    assert "✗ Database and the service's role: PostgreSQL said: " in run.output
    assert "Traceback" not in run.output
    assert not processes_of(checkout)


def hang_up(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


def test_clean_stops_a_run_and_forgets_its_data(checkout: Path) -> None:
    with running(checkout) as run:
        run.wait_for("✓ Valkey")
        cleaned = subprocess.run([sys.executable, "-m", "deploy.local", "clean"], cwd=checkout, capture_output=True, text=True, check=True)
        assert f"(pid {run.process.pid})" in cleaned.stdout
        assert run.wait() == 0
    assert not (checkout / ".local").exists()
    assert not processes_of(checkout)
