"""What can go wrong with local servers. The text of each is one sentence for the developer, shown without a traceback.

LocalError
├── DiskFull
├── WheelMissing
├── ServerFailed
├── CannotDemote
├── PortTaken
├── AlreadyRunning
├── CommandFailed
└── BadConfiguration
"""

import errno


class LocalError(Exception):
    """Something on this machine keeps the local servers from running."""


class DiskFull(LocalError):
    """A disk has no space left."""

    def __init__(self, where: object) -> None:
        super().__init__(f"The disk that holds {where} is full: free some space, then try again.")


class WheelMissing(LocalError):
    """No server was built for this platform."""

    def __init__(self, server: str, package: str, instead: str) -> None:
        super().__init__(f"The package {package} has no {server} for this platform: install one, and set {instead} to its address.")


class ServerFailed(LocalError):
    """A server did not start, or stopped by itself."""


class CannotDemote(LocalError):
    """PostgreSQL refuses to run as root, and nobody else can run it here."""


class PortTaken(LocalError):
    """Another process listens on the address of the API."""


class AlreadyRunning(LocalError):
    """Another supervisor runs in this checkout."""


class CommandFailed(LocalError):
    """A step of the preparation failed."""


class BadConfiguration(LocalError):
    """The environment or `.env` asks for something that cannot be."""


def sentence_of(error: OSError, where: object) -> str:
    """Return in one sentence what the operating system refused: the file, or `where` this went on, and why."""
    place = error.filename if error.filename is not None else where
    if error.errno == errno.ENOSPC:
        return str(DiskFull(place))
    if isinstance(error, PermissionError):
        return f"{place} may not be used ({error.strerror}): it belongs to another user."
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{place} cannot be used ({error.strerror}): there is a file where a folder belongs. Move it away, then try again."
    return f"{place} cannot be used: {error.strerror or error}."
