"""Forgets the local servers with all their data. Behind `make clean`."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

from deploy.local.errors import LocalError
from deploy.local.lock import holder
from deploy.local.processes import stop_leftover, wait_until

_STOP_SECONDS = 60.0
_SIGNALS = {"postgres.pid": signal.SIGINT}


def clean(root: Path) -> None:
    """Stop what runs in this checkout, tests included, then remove `.local/`. Raises `LocalError`."""
    directory = root / ".local"
    lock = directory / "lock"
    running = holder(lock)
    if running:
        print(f"Stopping what runs on {running.url} (pid {running.pid}) …")
        with contextlib.suppress(ProcessLookupError):  # it may end by itself just now
            os.kill(running.pid, signal.SIGTERM)
            if not wait_until(lambda: holder(lock) is None, _STOP_SECONDS):
                os.kill(running.pid, signal.SIGKILL)
    for pid_file in directory.rglob("run/*.pid"):
        stop_leftover(pid_file, _SIGNALS.get(pid_file.name, signal.SIGTERM))
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise LocalError(f"{error.filename} cannot be removed ({error.strerror}): run this as the user that made it.") from None
    print("Forgotten: .local, with the data of the local servers.")
