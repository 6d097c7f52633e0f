"""Processes of this checkout: started through `launch.py`, remembered in pid files, and found again after a `kill -9`."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil  # type: ignore[import-untyped,unused-ignore] # its stubs are a package of their own

from deploy.local.users import User

LAUNCHER = Path(__file__).with_name("launch.py")


class Child:
    """A process that this one started.

    `stop_signal` asks it to end in order, and is also what it gets when this process dies (on Linux). Start it in the main thread:
    the kernel sends that signal when the starting *thread* ends.
    """

    def __init__(self, name: str, argv: Sequence[str | Path], *, stop_signal: signal.Signals, pid_file: Path) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.stop_signal = stop_signal
        self.pid_file = pid_file
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *,
        output: IO[bytes] | int,
        cwd: Path,
        user: User | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, with stdout and stderr into `output`. With `user` it runs as that one."""
        process = subprocess.Popen(  # noqa: S603 (the program is ours)
            launched(self.argv, stop_signal=self.stop_signal, user=user, reach=cwd),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=environment,
        )
        self._process = process
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.pid_file, json.dumps({"pid": process.pid, "argv": self.argv}))

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def stdout(self) -> IO[bytes]:
        """Its output, where `output` was `subprocess.PIPE`."""
        stdout = self._running.stdout
        assert stdout is not None
        return stdout

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._running.poll()

    def send(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            self._running.send_signal(number)

    def wait(self, seconds: float) -> bool:
        """Wait until it has ended; return whether it has."""
        try:
            self._running.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self.pid_file.unlink(missing_ok=True)
        return True

    def stop(self, seconds: float = 15.0) -> None:
        """Ask it to end; kill it when it has not after that many seconds."""
        if self._process is None:
            return
        self.send(self.stop_signal)
        if not self.wait(seconds):
            self.send(signal.SIGKILL)
            self.wait(seconds)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, f"{self.name} was not started"
        return self._process


def launched(argv: Sequence[str], *, stop_signal: signal.Signals, user: User | None, reach: Path) -> list[str]:
    """Return the command that becomes `argv` through `launch.py`, able to reach the folder `reach` and the program."""
    identity = ["--user", f"{user.uid}:{user.gid}"] if user else []
    paths = ["--reach", str(reach), "--reach", argv[0]]
    return [sys.executable, "-I", "-S", str(LAUNCHER), "--parent", str(os.getpid()), "--signal", str(int(stop_signal)), *identity, *paths, "--", *argv]


def stop_leftover(pid_file: Path, stop_signal: signal.Signals, seconds: float = 15.0) -> bool:
    """Stop the process that a supervisor which was killed has left behind; return whether there was one.

    A pid may have gone to another process meanwhile: only one with the very command line that was started is touched.
    """
    try:
        left = json.loads(pid_file.read_text())
        process = psutil.Process(left["pid"])
        ours = process.cmdline() == left["argv"]
        if ours:
            process.send_signal(stop_signal)
            if not wait_until(lambda: not is_running(process), seconds):
                process.kill()
                wait_until(lambda: not is_running(process), seconds)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        ours = False
    pid_file.unlink(missing_ok=True)
    return ours


def wait_until(condition: Callable[[], bool], seconds: float, *, poll: float = 0.02) -> bool:
    """Ask the condition again and again; return whether it came true within that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll)
    return True


def is_running(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def processes_in(folder: Path) -> Iterator[Any]:
    """Yield the processes whose working directory is the folder, as far as this user may see them."""
    wanted = str(folder.resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd() == wanted:
                yield process


def listener(port: int) -> str | None:
    """Return "name, pid 123" of the process that listens on the port, where this user may know it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, pid {connection.pid}"
    except (psutil.Error, OSError):
        return None
    return None


def replace_file(path: Path, text: str) -> None:
    """Write the file whole, readable by its owner alone, or leave the old one as it was."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
