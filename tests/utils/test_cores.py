"""As many cores are used as a container may use, whatever the host has."""

import os
from pathlib import Path

import pytest

from app.utils.cores import usable_cores

ALL = 64


@pytest.fixture(autouse=True)
def large_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: ALL)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(ALL)), raising=False)


def cores(folder: Path, membership: str, files: dict[str, str]) -> int:
    """Return what is found where a folder that stands for /sys/fs/cgroup has these files."""
    for name, text in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(f"{text}\n")
    (folder / "membership").write_text(membership)
    return usable_cores(folder / "cgroup", folder / "membership")


@pytest.mark.parametrize(
    ("maximum", "expected"), [("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("max 100000", ALL), ("9900000 100000", ALL), ("nonsense", ALL)]
)
def test_the_quota_of_version_2_counts_rounded_up(tmp_path: Path, maximum: str, expected: int) -> None:
    assert cores(tmp_path, "0::/\n", {"cpu.max": maximum}) == expected


@pytest.mark.parametrize(("quota", "expected"), [("200000", 2), ("50000", 1), ("-1", ALL)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_the_quota_of_version_1_counts_too(tmp_path: Path, quota: str, expected: int, mount: str) -> None:
    membership = f"5:memory:/docker/1\n4:{mount}:/docker/1\n3:cpuset:/\n"
    # As the host shows it, and as a container sees its own group.
    for place in (f"{mount}/docker/1", mount):
        folder = tmp_path / place
        assert cores(folder, membership, {f"{place}/cpu.cfs_quota_us": quota, f"{place}/cpu.cfs_period_us": "100000"}) == expected


def test_the_smallest_of_all_groups_above_counts(tmp_path: Path) -> None:
    files = {"slice/cpu.max": "300000 100000", "slice/unit/cpu.max": "max 100000", "other/cpu.max": "100000 100000"}
    assert cores(tmp_path, "0::/slice/unit\n", files) == 3


def test_where_there_are_no_groups_the_scheduler_and_the_machine_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "none") == ALL
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 9}, raising=False)
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path / "none", tmp_path / "none") == 1
