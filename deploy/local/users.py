"""Which user the servers run as."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import CannotDemote
from deploy.local.launch import WHAT_TO_DO


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


def check_name(user: User | None) -> None:
    """Raise `CannotDemote` where the user has no name here: containers run under such numbers, and initdb then refuses."""
    uid = user.uid if user else os.geteuid()
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise CannotDemote(f"PostgreSQL needs a user with a name, and user {uid} has none here: {WHAT_TO_DO}") from None


def own_folder(path: Path, user: User | None) -> None:
    """Make the folder, for that user alone."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    give(path, user)


def give(path: Path, user: User | None) -> None:
    """Make the user its owner. Raises `CannotDemote` where this process may not."""
    if user is None:
        return
    try:
        os.chown(path, user.uid, user.gid)
    except OSError as error:
        raise CannotDemote(
            f"PostgreSQL refuses to run as root, and this process may not hand a folder to user {user.uid} ({error.strerror}): {WHAT_TO_DO}"
        ) from None
