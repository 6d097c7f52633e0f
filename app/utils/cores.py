"""How many processor cores this process may really use."""

import math
import os
from pathlib import Path

CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the least of what the machine has, the scheduler allows, and a container's quota gives (rounded up); at least 1.

    The quota counts time, not cores: in a container with two CPUs' worth of time, the machine's 64 cores are all there to be seen.
    `cgroups` and `membership` are where the kernel shows the quotas, and which of them this process is subject to.
    """
    limits = [float(os.cpu_count() or 1), *_quotas(cgroups, membership)]
    if hasattr(os, "sched_getaffinity"):
        limits.append(len(os.sched_getaffinity(0)))
    return max(1, math.ceil(min(limits)))


def _quotas(cgroups: Path, membership: Path) -> list[float]:
    """Return the quotas of this process's control groups, and of all above them, in cores."""
    found = []
    for line in _text(membership).splitlines():
        number, controllers, path = line.split(":", 2)
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's, and the container's own group is at the top.
        mounts = [cgroups] if number == "0" else [cgroups / controllers, cgroups / "cpu"]
        groups = [mount / path.lstrip("/") for mount in mounts]
        folders = {folder for mount, group in zip(mounts, groups, strict=True) for folder in (group, *group.parents) if folder.is_relative_to(mount)}
        found += [quota for folder in folders if (quota := _quota(folder)) is not None]
    return found


def _quota(folder: Path) -> float | None:
    """Return the quota of one control group, of version 2 or 1; None where it has none."""
    whole = _text(folder / "cpu.max").split() or [_text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")]
    try:
        quota, period = (int(part) for part in whole)
    except ValueError:  # there is no such file, or it says `max`
        return None
    return quota / period if quota > 0 and period > 0 else None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
