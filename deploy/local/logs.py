"""The servers' own log files."""

from pathlib import Path
from typing import IO


def fresh_log(path: Path) -> IO[bytes]:
    """Open an empty log file; the one before is kept beside it as `<name>.previous`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.replace(path.with_name(path.name + ".previous"))
    return path.open("wb", buffering=0)


def last_lines(text: str, count: int) -> str:
    """Return the last lines that say something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:]) or "it said nothing"
