"""Servers run as an ordinary user where root starts them, and no folder's mode is changed for that."""

import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from deploy.local.errors import CannotDemote
from deploy.local.launch import LAUNCH_FAILED
from deploy.local.processes import LAUNCHER
from deploy.local.servers import LocalServers
from deploy.local.users import server_user

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="capabilities are Linux's")


def launch(*arguments: str, program: tuple[str, ...]) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-I", "-S", str(LAUNCHER), "--parent", str(os.getpid()), "--signal", "15", *arguments, "--", *program]
    groups = [4] if os.geteuid() == 0 else None  # one that must not be kept
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", extra_groups=groups)


def privileges(status: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}


def modes_above(path: Path) -> dict[Path, int]:
    return {parent: stat.S_IMODE(parent.stat().st_mode) for parent in path.parents}


@as_root
def test_servers_run_as_an_ordinary_user_below_a_folder_that_only_root_may_enter(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    before = modes_above(closed / "x")
    with LocalServers(closed / "servers", durable=False) as servers:
        assert servers.postgres.child and servers.valkey.child
        for child in (servers.postgres.child, servers.valkey.child):
            assert psutil.Process(child.process.pid).uids().effective != 0
        assert modes_above(closed / "x") == before
    assert before[closed] == 0o700


@as_root
@on_linux
def test_nothing_of_root_is_kept_where_nothing_is_needed() -> None:
    done = launch("--user", "65534:65534", "--cwd", "/", program=("/bin/cat", "/proc/self/status"))
    kept = privileges(done.stdout)
    assert kept["Uid"].split() == ["65534"] * 4
    assert kept["Gid"].split() == ["65534"] * 4
    assert kept["Groups"] == ""
    assert {kept[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}


@as_root
@on_linux
def test_the_right_to_pass_through_folders_is_all_that_is_kept_where_it_is_needed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    done = launch("--user", "65534:65534", "--cwd", str(tmp_path), program=("/bin/cat", "/proc/self/status"))
    kept = privileges(done.stdout)
    assert {kept[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} in ({"0" * 15 + "4"}, {"0" * 15 + "2"})


@as_root
@on_linux
def test_where_no_right_can_be_kept_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    drop = "import ctypes; libc = ctypes.CDLL(None); [libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)]"  # PR_CAPBSET_DROP
    run = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-I", "-S", str(LAUNCHER), "--signal", "15", "--user", "65534:65534", "--cwd", str(tmp_path)]
    parent = str(os.getpid())
    done = subprocess.run(
        [sys.executable, "-c", f"{drop}; {run}", *command, "--parent", parent, "--", "/bin/true"], capture_output=True, text=True, check=False
    )
    assert done.returncode == LAUNCH_FAILED
    assert "start this as an ordinary user" in done.stderr
    assert "Traceback" not in done.stderr


@as_root
def test_a_user_that_cannot_be_become_is_one_sentence() -> None:
    done = launch("--cwd", "/", "--user", "4294967295:4294967295", program=("/bin/true",))
    assert done.returncode == LAUNCH_FAILED
    assert done.stderr.count("\n") == 1


def test_a_program_that_is_not_there_is_one_sentence() -> None:
    done = launch("--cwd", "/", program=("/no/such/program",))
    assert done.returncode == LAUNCH_FAILED
    assert done.stderr == "/no/such/program could not be started: No such file or directory.\n"


def test_who_is_not_root_stays_who_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert server_user(tmp_path) is None


@as_root
def test_under_sudo_the_servers_run_as_who_called_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    user = server_user(tmp_path / "none")
    assert user
    assert (user.uid, user.gid) == (1234, 1235)


@as_root
def test_root_alone_hands_over_to_nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    user = server_user(tmp_path / "none")
    assert user
    assert user.uid == pwd.getpwnam("nobody").pw_uid


@as_root
def test_a_user_without_a_name_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUDO_UID", "987654")
    monkeypatch.setenv("SUDO_GID", "987654")
    with pytest.raises(CannotDemote, match="user 987654 has none here"), LocalServers(tmp_path, durable=False):
        pass


@as_root
def test_data_that_is_there_keeps_its_owner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUDO_UID", "1234")
    monkeypatch.setenv("SUDO_GID", "1235")
    os.chown(tmp_path, 4321, 4321)
    user = server_user(tmp_path)
    assert user
    assert user.uid == 4321
