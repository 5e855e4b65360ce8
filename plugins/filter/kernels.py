"""Filters for the kernels of a rig and NVIDIA's module for them.

answers | nvidia_kernels            which kernel runs, which boots next, and which have the module
answers.packages | package_versions the versions of installed packages by name
answers.packages | packages_undone  the packages that dpkg has begun with and not finished

The answers are those of roles/gpu_driver/tasks/ask.yml. A program that is not there has said
nothing, as on a rig without a driver and in a container.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Answer = Mapping[str, Any]

#: NVIDIA's module by the names that its installer and Debian's packages give it; the kernel's own
#: nvidiafb and i2c-nvidia-gpu are others.
_MODULE = re.compile(
    r"/lib/modules/([^/]+)/\S*/nvidia(?:-current|-tesla(?:-\d+)?)?[.]ko(?:[.]\w+)?"
)
#: What DKMS needs of a kernel's headers before it compiles anything.
_HEADERS = re.compile(r"/lib/modules/([^/]+)/build/include")
#: A compilation that did not end well, or has not ended yet, leaves its log here.
_LOG = re.compile(r"(/var/lib/dkms/nvidia[^/]*/[^/]+/build/make[.]log):(.*)")
_LOG_OF = re.compile(r"make[.]log for \S+ for kernel (\S+) ")
#: make's last words; one that was killed, by a reboot or for want of memory, says none.
_FAILED = re.compile(r"make(\[\d+\])?: [*]{3} ")
#: The entry of GRUB's menu that is booted: the first one is the newest kernel.
_GRUB_DEFAULT = re.compile(r"GRUB_DEFAULT=[\"']?([^\"']*)")
#: A link to the module's source that leads nowhere. DKMS then compiles nothing and ends with 0.
_LOST = re.compile(r"/var/lib/dkms/nvidia[^/]*/([^/]+)/source")
#: dpkg's states of a package that has not come to an end.
_UNDONE = ("half-installed", "unpacked", "half-configured", "triggers-awaited", "triggers-pending")


def _found(pattern: re.Pattern[str], answer: Answer) -> list[str]:
    matches = map(pattern.fullmatch, answer["stdout_lines"])
    return sorted({match[1] for match in matches if match})


def _failures(lines: Iterable[str]) -> dict[str, str]:
    """Return, by kernel, where DKMS says that it could not compile the module, and why."""
    logs: dict[str, list[str]] = {}
    for line in lines:
        if match := _LOG.fullmatch(line):
            logs.setdefault(match[1], []).append(match[2])
    found = {}
    for path, said in logs.items():
        kernels = [match[1] for line in said if (match := _LOG_OF.search(line))]
        reasons = [line for line in said if not _LOG_OF.search(line)]
        if kernels and any(_FAILED.match(line) for line in reasons):
            # The compiler's first complaint comes before make's.
            found[kernels[-1]] = f"{path}: {reasons[0].strip()}"
    return found


def nvidia_kernels(answers: Mapping[str, Answer]) -> dict[str, Any]:
    """Return what is known of a rig's kernels.

    `running` and `next`: kernels as uname names them. The newest one is booted next. Where GRUB is
    told otherwise, or no kernel of Debian's is installed, it is taken to be the running one.
    `with_module`, `with_headers`: the kernels that have NVIDIA's module, and those that it can be
    compiled for. `failed`: by kernel, where DKMS could not, the log and its reason.
    `is_broken`: whether DKMS has lost the module's source.
    """
    running = answers["kernel"]["stdout"]
    installed = answers["kernels"]["stdout_lines"]
    entries = [
        match[1] for line in answers["grub"]["stdout_lines"] if (match := _GRUB_DEFAULT.match(line))
    ]
    boots_newest = installed and (not entries or entries[-1] == "0")
    return {
        "running": running,
        "next": installed[-1] if boots_newest else running,
        "with_module": _found(_MODULE, answers["modules"]),
        "with_headers": _found(_HEADERS, answers["headers"]),
        "failed": _failures(answers["logs"]["stdout_lines"]),
        "is_broken": bool(_found(_LOST, answers["lost"])),
    }


def _packages(answer: Answer) -> list[Sequence[str]]:
    """Return state, name and version of each package that dpkg has ever heard of."""
    lines = (line.split() for line in answer["stdout_lines"])
    return [(line[0], line[1], line[2] if len(line) > 2 else "") for line in lines]  # noqa: PLR2004


def package_versions(answer: Answer) -> dict[str, str]:
    """Return the versions of what is installed, by name.

    The answer is that of dpkg-query with "${db:Status-Status} ${Package} ${Version}" as its format.
    """
    return {name: version for state, name, version in _packages(answer) if state == "installed"}


def packages_undone(answer: Answer) -> list[str]:
    """Return the names of packages that are neither installed nor not; of the same answer."""
    return sorted({name for state, name, _ in _packages(answer) if state in _UNDONE})


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "nvidia_kernels": nvidia_kernels,
            "package_versions": package_versions,
            "packages_undone": packages_undone,
        }
