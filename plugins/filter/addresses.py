"""Filters for hosts that a role lets in, which the inventory may have names for.

hosts | address_questions        what to ask a host (host_answers) for the addresses of those names
hosts | addresses_by(answers)    all addresses and networks, those of the names from the answers
hosts | without_address(answers) the names of which the host knows none
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

#: An IPv4 address or network, or anything of IPv6; all else is a name.
_ADDRESS = re.compile(r"[0-9.]+(/[0-9]+)?|.*:.*")

Answers = Mapping[str, Mapping[str, Any]]


def _names(hosts: Iterable[str]) -> list[str]:
    return [host for host in dict.fromkeys(hosts) if not _ADDRESS.fullmatch(host)]


def address_questions(hosts: Iterable[str]) -> dict[str, list[str]]:
    """Return a command for each name; its answer is the host's own, from DNS or /etc/hosts."""
    return {name: ["getent", "ahosts", name] for name in _names(hosts)}


def without_address(hosts: Iterable[str], answers: Answers) -> list[str]:
    """Return the names that the host could not look up."""
    return [name for name in _names(hosts) if answers[name]["rc"] != 0]


def addresses_by(hosts: Iterable[str], answers: Answers) -> list[str]:
    """Return each address once, sorted as text.

    The answers are by name, each with the stdout_lines of `getent ahosts`: an address comes first
    in a line, and comes with several kinds of socket.
    """
    hosts = list(hosts)
    found = {line.split()[0] for name in _names(hosts) for line in answers[name]["stdout_lines"]}
    return sorted(found | {host for host in hosts if _ADDRESS.fullmatch(host)})


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "address_questions": address_questions,
            "addresses_by": addresses_by,
            "without_address": without_address,
        }
