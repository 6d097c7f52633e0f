"""Which user the servers run as."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import CannotDemote


@dataclass(frozen=True)
class User:
    uid: int
    gid: int


def server_user(data: Path) -> User | None:
    """Return the ordinary user that the servers become when this process is root's; None when it is not.

    The owner of the data where there is some already; else who called sudo; else nobody. Raises `CannotDemote`.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return User(owner.st_uid, owner.st_gid)
    if int(os.environ.get("SUDO_UID", "0")) != 0:
        return User(int(os.environ["SUDO_UID"]), int(os.environ["SUDO_GID"]))
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise CannotDemote("PostgreSQL refuses to run as root, and there is no user 'nobody' here: start it as an ordinary user.") from None
    return User(nobody.pw_uid, nobody.pw_gid)


def own_folder(path: Path, user: User | None) -> None:
    """Make the folder, for that user alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user:
        os.chown(path, user.uid, user.gid)
