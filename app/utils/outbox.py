"""Where mail goes in development: into the terminal, to be read, and into a folder, to be opened in a mail program."""

import asyncio
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import structlog

from app.utils.mail_message import OutgoingMail

# Below the folder that the process runs in.
FOLDER = Path(".local", "outbox")
LONGEST_RECIPIENT = 100

log = structlog.get_logger(__name__)


async def keep(mail: OutgoingMail, message: bytes) -> None:
    """Show a mail, and write it to a file if that is possible: in a container the folder may not be writable."""
    try:
        where = str(await asyncio.to_thread(_write, message, f"{mail.template}-{_file_name(mail.recipient)}"))
    except OSError as error:
        where = f"no file could be written: {error.strerror}"
    # In the event itself, which a terminal shows with its line breaks.
    log.info(f"SMTP_URL is not set, so this mail stays here ({where}):\n\nTo: {mail.recipient}\nSubject: {mail.subject}\n\n{mail.text}")  # noqa: G004 (for reading)


def _write(message: bytes, name: str) -> Path:
    """Write the mail under a name that begins with the time. A file is there whole, or not at all."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{name}.eml"
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_bytes(message)
    unfinished.replace(path)
    return path


def _file_name(recipient: str) -> str:
    return re.sub(r"[^A-Za-z0-9@.+_-]", "_", recipient)[:LONGEST_RECIPIENT]
