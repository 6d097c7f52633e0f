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
from typing import IO

import psutil

from deploy.local.errors import LocalError
from deploy.local.users import User

LAUNCHER = Path(__file__).with_name("launch.py")
STOP_SECONDS = 25.0


class Child:
    """A process that this one started, with what it says on stdout and stderr going to `output`.

    `stop_signal` asks it to end in order, and is also what it gets when this process dies (on Linux); `hurry_signal` ends it at once.
    Start it in the main thread: the kernel sends the signal when the starting *thread* ends. With `user` it runs as that one.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        output: IO[bytes] | int,
        cwd: Path,
        pid_file: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        hurry_signal: signal.Signals = signal.SIGKILL,
        user: User | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.stop_signal = stop_signal
        self.hurry_signal = hurry_signal
        self._pid_file = pid_file
        command = [str(part) for part in argv]
        self.process = subprocess.Popen(  # noqa: S603 (the program is ours)
            launched(command, stop_signal=stop_signal, user=user, cwd=cwd),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches the supervisor alone, which then stops everything in order
        )
        pid_file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(pid_file, json.dumps({"pid": self.process.pid, "argv": command}))

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self.process.poll()

    def hurry(self) -> None:
        """End it at once. Safe in a signal handler."""
        self.process.send_signal(self.hurry_signal)

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end; kill it when it has not after that many seconds."""
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(seconds)
        self._pid_file.unlink(missing_ok=True)


def launched(argv: Sequence[str], *, stop_signal: signal.Signals, user: User | None, cwd: Path) -> list[str]:
    """Return the command that becomes `argv` in the folder `cwd`, through `launch.py`."""
    options = ["--parent", str(os.getpid()), "--signal", str(int(stop_signal)), "--cwd", str(cwd)]
    if user:
        options += ["--user", f"{user.uid}:{user.gid}"]
    return [sys.executable, "-I", "-S", str(LAUNCHER), *options, "--", *argv]


def stop_leftover(pid_file: Path, stop_signal: signal.Signals, seconds: float = STOP_SECONDS) -> bool:
    """Stop the process that a supervisor which was killed has left behind; return whether there was one.

    A pid may have gone to another process meanwhile: only one with the very command line that was started is touched.
    """
    try:
        left = json.loads(pid_file.read_text())
        process = psutil.Process(left["pid"])
        ours: bool = process.cmdline() == left["argv"]
        if ours:
            process.send_signal(stop_signal)
            if not wait_until(lambda: not is_running(process), seconds):
                process.kill()
                wait_until(lambda: not is_running(process), seconds)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        ours = False
    except psutil.AccessDenied:
        raise LocalError(f"A process of an earlier run, pid {left['pid']}, belongs to another user: run this as that user.") from None
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
        return process.is_running() and str(process.status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def processes_in(folder: Path) -> Iterator[psutil.Process]:
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
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr and connection.laddr.port == port:
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
