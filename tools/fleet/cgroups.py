"""Control groups: what ends a machine at one blow and keeps it out of its maker's session."""

import contextlib
import os
import re
from pathlib import Path

from tools.fleet.system import wait_until

_TOP = "heartcode-fleet"


def mount_point(mountinfo: str) -> Path | None:
    """Where the unified hierarchy is mounted, from /proc/self/mountinfo; None if nowhere."""
    for line in mountinfo.splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2" and fields[3] == "/":
            return Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), fields[4]))
    return None


def hierarchy() -> Path | None:
    """Where this process sees the unified hierarchy."""
    return mount_point(Path("/proc/self/mountinfo").read_text())


def fleet_group(top: Path, fleet_id: str) -> Path:
    """The group that holds all machines of a fleet."""
    return top / _TOP / fleet_id


def make(top: Path, group: Path) -> None:
    """Make a group below ``top`` with all controllers that can be had.

    Without controllers a machine runs as well: where the host uses the old hierarchies, as some
    containers do, there are none.
    """
    group.mkdir(parents=True, exist_ok=True)
    for parent in reversed([p for p in group.parents if p == top or top in p.parents]):
        for controller in (parent / "cgroup.controllers").read_text().split():
            with contextlib.suppress(OSError):
                (parent / "cgroup.subtree_control").write_text(f"+{controller}")


def enter(group: Path) -> None:
    """Move this process into a group."""
    (group / "cgroup.procs").write_text(str(os.getpid()))


def kill_all(group: Path) -> bool:
    """Kill every process of a group and the groups below it; False if it cannot be done so."""
    try:
        (group / "cgroup.kill").write_text("1")
    except OSError:
        return False
    return True


def remove(group: Path) -> None:
    """Remove a group and those below it; killed processes need a moment to leave."""
    if not wait_until(lambda: _remove_now(group), deadline_s=5):
        return
    # The tool's own groups above it go with the last machine.
    for parent in (group.parent, group.parent.parent):
        if _TOP in (parent.name, parent.parent.name):
            with contextlib.suppress(OSError):
                parent.rmdir()


def _remove_now(group: Path) -> bool:
    for directory, _groups, _files in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            Path(directory).rmdir()
    return not group.exists()
