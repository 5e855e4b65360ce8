"""Filters for the ports that services of a host open.

wanted | taken_ports(host, answers)   what to say of those that somebody else has

The answers are those that the role common's preflight has of the host (__common_host.answers).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

#: In a line of ss, who has a socket, as in `users:(("sshd",pid=7,fd=3)) cgroup:/system.slice/x`.
_HOLDER = re.compile(r"users:\S+|cgroup:\S+")


def _holders(
    port: int, unit: str, listeners: Sequence[str], sockets: Sequence[str]
) -> Iterator[str]:
    """Yield the lines of the listeners on a port that do not belong to the unit."""
    socket = re.escape(re.sub(r"[.]service$", ".socket", unit))
    # Where a socket unit of ours listens, systemd itself is the holder.
    is_socket_unit_s = any(re.search(rf":{port}\s+{socket}\s", line) for line in sockets)
    for line in listeners:
        if not re.search(rf":{port}\s", line):
            continue
        if re.search(rf"cgroup:\S*/{re.escape(unit)}(/|\s|$)", line):
            continue
        if is_socket_unit_s and '"systemd",pid=1,' in line:
            continue
        yield line


def taken_ports(
    wanted: Iterable[Mapping[str, Any]],
    host: str,
    answers: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return a sentence for each port that another program than its unit listens on.

    `wanted` are mappings with a port, the unit that shall have it and the variable that sets it.
    The answers are `listeners`, of `ss --no-header --listening --tcp --numeric --processes
    --cgroup`, and `sockets`, of `systemctl list-sockets --no-legend --plain --full`; each with its
    stdout_lines.
    """
    listeners, sockets = (answers[name]["stdout_lines"] for name in ("listeners", "sockets"))
    said = []
    for one in wanted:
        port, variable = int(one["port"]), one["variable"]
        found = list(_holders(port, one["unit"], listeners, sockets))
        if not found:
            continue
        names = [match.group() for line in found if (match := _HOLDER.search(line))]
        said.append(
            f"{host}: port {port} ({variable}) is in use by"
            f" {', '.join(dict.fromkeys(names)) or 'another program'}."
            f" Stop that program or set {variable} to a free port."
        )
    return said


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"taken_ports": taken_ports}
