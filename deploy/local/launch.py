"""Becomes another program, as an ordinary user, which ends when its parent ends.

    python launch.py --parent PID --signal NUMBER --cwd FOLDER [--user UID:GID] -- PROGRAM [ARGUMENT]...

PostgreSQL refuses to run as root. A checkout may lie below a folder that only root may enter (`mktemp -d` makes such ones), and
the modes of folders that are not ours stay as they are. So on Linux, where the user could not reach the folder or the program, it
keeps one single privilege of root: to pass through folders and to read files (CAP_DAC_READ_SEARCH, or CAP_DAC_OVERRIDE where a
container has that one alone). It is made "ambient", which is what survives the exec of a program without file capabilities.

A program of its own and not a `preexec_fn`, because Python code between fork and exec can deadlock in a process with threads.
It imports nothing but the standard library, and exits with `LAUNCH_FAILED` and one sentence on stderr when it cannot do its work.
Source: prctl(2), capset(2), capabilities(7).
"""

import argparse
import ctypes
import os
import signal
import sys
from typing import NoReturn

LAUNCH_FAILED = 126
WHAT_TO_DO = "start this as an ordinary user, or set DATABASE_URL and DATABASE_ADMIN_URL to a server that runs already."

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_GET_SECUREBITS = 27
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAP_SETPCAP = 8
_SECBIT_NO_SETUID_FIXUP = 1 << 2


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def main(arguments: list[str]) -> NoReturn:
    """Do what the top of this file says. Never returns: the process becomes the program, or exits."""
    own, program = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--signal", type=int, required=True)
    parser.add_argument("--cwd", required=True)
    parser.add_argument("--user")
    options = parser.parse_args(own)
    try:
        if options.user:
            uid, gid = map(int, options.user.split(":"))
            demote(uid, gid, [options.cwd, program[0]])
        os.chdir(options.cwd)
        die_with(options.parent, options.signal)
        os.execv(program[0], program)  # noqa: S606 (no shell is wanted)
    except OSError as error:
        sys.exit(_failed(f"{program[0]} could not be started: {error.strerror}."))


def die_with(parent: int, number: int) -> None:
    """Ask the kernel to send this process the signal when its parent ends. Only Linux can; elsewhere the next start cleans up."""
    if not sys.platform.startswith("linux"):
        return
    _libc().prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:  # it had ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def demote(uid: int, gid: int, paths: list[str]) -> None:
    """Become the user for good, and keep the right to reach the paths where it would be lost. Exits when that is impossible."""
    linux = sys.platform.startswith("linux")
    try:
        if linux:
            _libc().prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    except OSError as error:
        sys.exit(_failed(f"PostgreSQL refuses to run as root, and this process may not become user {uid} ({error.strerror}): {WHAT_TO_DO}"))
    kept = [] if _reachable(paths) else [_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE]
    if linux:
        _keep_one_of(kept)
    if not _reachable(paths):
        sys.exit(_failed(f"PostgreSQL refuses to run as root, and user {uid} may not enter {paths[0]}: {WHAT_TO_DO}"))


def _reachable(paths: list[str]) -> bool:
    """Return whether the user may enter all of them. Before `_keep_one_of`, access() ignores what this process still holds of root's."""
    return all(os.access(path, os.R_OK | os.X_OK) for path in paths)


def _keep_one_of(capabilities: list[int]) -> None:
    """Drop every privilege but the first of these that can be kept."""
    libc = _libc()
    for capability in capabilities:
        if not _set_capabilities(1 << capability | 1 << _CAP_SETPCAP):
            continue
        # access() takes no account of an ordinary user's capabilities without this, and initdb looks for its neighbours by access().
        libc.prctl(_PR_SET_SECUREBITS, libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0) | _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
        if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0) == 0:
            _set_capabilities(1 << capability)
            return
    _set_capabilities(0)


def _set_capabilities(mask: int) -> bool:
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)(_CapabilityData(mask, mask, mask), _CapabilityData(0, 0, 0))
    return bool(_libc().capset(ctypes.byref(header), data) == 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _failed(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return LAUNCH_FAILED


if __name__ == "__main__":
    main(sys.argv[1:])
