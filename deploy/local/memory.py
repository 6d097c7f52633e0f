"""Ports and passwords of the local servers, made once and kept beside the data."""

import json
import secrets
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from deploy.local.errors import LocalError
from deploy.local.processes import replace_file


def _password() -> str:
    return secrets.token_hex(20)


@dataclass
class Memory:
    """What has to be the same at the next start. The file is readable by its owner alone."""

    postgres_port: int = 0
    redis_port: int = 0
    superuser_password: str = field(default_factory=_password)
    owner_password: str = field(default_factory=_password)
    service_password: str = field(default_factory=_password)
    redis_password: str = field(default_factory=_password)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what the file holds, or new passwords where there is none. Raises `LocalError` when it is damaged."""
        try:
            return cls(**json.loads(path.read_text()))
        except FileNotFoundError:
            return cls()
        except PermissionError:
            raise LocalError(f"{path} belongs to another user: run this as that user, or remove {path.parent}.") from None
        except (ValueError, TypeError):
            raise LocalError(f"{path} is damaged: restore it, or forget the data of the local servers with 'make clean'.") from None

    def save(self, path: Path) -> None:
        replace_file(path, json.dumps(asdict(self), indent=2))


def free_port(preferred: int = 0) -> int:
    """Return the preferred port of 127.0.0.1 where nothing listens there, else any free one."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise LocalError("No port of 127.0.0.1 is free.")
