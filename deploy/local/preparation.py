"""The commands that make a database ready for the service, each run once to its end."""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import CommandFailed, DiskFull
from deploy.local.logs import fresh_log, last_lines
from deploy.local.processes import Child, wait_until

_SECONDS = 600.0


@dataclass(frozen=True)
class Command:
    """A module to run with this Python, and what to call it."""

    name: str
    title: str
    arguments: tuple[str, ...]

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", *self.arguments]


PREPARE = Command("prepare", "Database and the service's role", ("app.cli", "database", "prepare"))
MIGRATE = Command("migrate", "Migrations", ("alembic", "upgrade", "head"))
SEED = Command("seed", "Demo tenant", ("app.cli", "seed-demo"))


def run_command(command: Command, *, root: Path, directory: Path, environment: Mapping[str, str], stop: Callable[[], bool]) -> None:
    """Run it to its end, or until `stop` says so. Raises `CommandFailed` with the last thing that it said."""
    log = directory / "log" / f"{command.name}.log"
    with fresh_log(log) as output:
        child = Child(command.title, command.argv, output=output, cwd=root, pid_file=directory / "run" / f"{command.name}.pid", environment=environment)
    ended = wait_until(lambda: child.exit_code is not None or stop(), _SECONDS)
    exit_code = child.exit_code
    child.stop()
    if stop() or exit_code == 0:
        return
    text = log.read_text(errors="replace")
    if os.strerror(errno.ENOSPC) in text:
        raise DiskFull(directory)
    why = last_lines(text, 1) if ended else f"it was not done after {_SECONDS:.0f} seconds"
    raise CommandFailed(f"{command.title}: {why} (more in {log}).")


def describe_exit(exit_code: int | None) -> str:
    """Return the exit code in words."""
    if exit_code is not None and exit_code < 0:
        return f"killed by signal {-exit_code}"
    return f"exit code {exit_code}"
