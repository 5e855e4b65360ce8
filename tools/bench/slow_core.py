"""A slow core: a share of one core for a program and its children, by a control group's quota."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_CGROUPS = Path("/sys/fs/cgroup")
# A slow core is slow all the time: the quota is dealt out in portions as small as the kernel takes
# (1 ms), or a program would run at full speed for 20 ms and then stand still for 80.
_PERIOD_US = 10_000
_SMALLEST_QUOTA_US = 1_000


class SlowCoreError(Exception):
    """This machine or this user cannot have one; the text says what to do."""


def period_and_quota_us(percent: int) -> tuple[int, int]:
    """Return the length of a period and what may be used of it, in microseconds."""
    period_us = max(_PERIOD_US, _SMALLEST_QUOTA_US * 100 // percent)
    return period_us, period_us * percent // 100


@dataclass(frozen=True, kw_only=True)
class _Files:
    """Where a control group is made, and what is written into which file of it."""

    parent: Path
    limits: dict[str, str]


def _files(cgroups: Path, percent: int) -> _Files:
    period_us, quota_us = period_and_quota_us(percent)
    own = cgroups / "cgroup.controllers"
    if own.exists() and "cpu" in own.read_text().split():
        return _Files(parent=cgroups, limits={"cpu.max": f"{quota_us} {period_us}"})
    if (cgroups / "cpu" / "cpu.cfs_quota_us").exists() or (cgroups / "cpu" / "tasks").exists():
        limits = {"cpu.cfs_period_us": str(period_us), "cpu.cfs_quota_us": str(quota_us)}
        return _Files(parent=cgroups / "cpu", limits=limits)
    raise SlowCoreError(
        f"{cgroups} has no controller for CPU time, which a quota needs: run the benchmark on a "
        "host and not in a container"
    )


class SlowCore:
    """`percent` of one core for all that is put on it, as long as it is entered.

    Raises:
        SlowCoreError: when it cannot be had.
    """

    def __init__(self, percent: int, *, cgroups: Path = _CGROUPS) -> None:
        self.percent = percent
        self.cpu = max(os.sched_getaffinity(0))
        self._files = _files(cgroups, percent)
        self._group = self._files.parent / f"heartcode-bench-{os.getpid()}"

    def hold(self, pids: Iterable[int]) -> None:
        """Put processes with all their threads on it; what they start from now on is on it too."""
        for pid in pids:
            (self._group / "cgroup.procs").write_text(str(pid))
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {self.cpu})

    def __enter__(self) -> Self:
        controllers = self._files.parent / "cgroup.subtree_control"
        try:
            if controllers.exists() and "cpu" not in controllers.read_text().split():
                controllers.write_text("+cpu")
            self._group.mkdir()
            for name, value in self._files.limits.items():
                (self._group / name).write_text(value)
        except OSError as error:
            self.__exit__()
            raise SlowCoreError(f"a quota for CPU time needs root: {error}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if not self._group.is_dir():
            return
        for pid in (self._group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (self._files.parent / "cgroup.procs").write_text(pid)
        self._group.rmdir()
