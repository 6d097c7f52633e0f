"""One supervisor a checkout. The kernel frees the lock when its holder dies, however it dies."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import AlreadyRunning


@dataclass(frozen=True)
class Holder:
    """Who holds the lock, and where it serves."""

    pid: int
    url: str


@contextlib.contextmanager
def only_one(path: Path, url: str) -> Iterator[None]:
    """Hold the lock during the block. Raises `AlreadyRunning`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = _read(path)
            where = f" on {found.url} (pid {found.pid}): stop it with 'kill {found.pid}'" if found else ""
            raise AlreadyRunning(f"It already runs in this checkout{where}.") from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "url": url}))
        file.flush()
        yield
        file.truncate(0)


def holder(path: Path) -> Holder | None:
    """Return who holds the lock; None where nobody does."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return _read(path)
    return None


def _read(path: Path) -> Holder | None:
    try:
        return Holder(**json.loads(path.read_text()))
    except ValueError:  # it is just being written
        return None
