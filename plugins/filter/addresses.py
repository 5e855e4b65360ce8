"""Filters for hosts that a role lets in, which the inventory may have names for.

hosts | address_questions        what to ask a host (host_answers) for the addresses of those names
hosts | addresses_by(answers)    all addresses and networks, those of the names from the answers
hosts | without_address(answers) the names of which the host knows none
hosts | wrong_hosts              those that can be no address, network or name
networks | wrong_networks        those that can be no address or network
host | firewall_openings(...)    which of its ports are open to whom
openings | firewall_opened(answers)   the same with addresses alone, IPv4 and IPv6 apart
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

#: An IPv4 address or network, or anything of IPv6; all else is a name.
_ADDRESS = re.compile(r"[0-9.]+(/[0-9]+)?|.*:.*")
#: As nginx and nft know it: no mask after the slash, and no interface after the address.
_PLAIN = re.compile(r"[^/%]+(/[0-9]+)?")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

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


def _is_network(text: str) -> bool:
    """Whether it is an address or a network; one may be named by any address in it."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return _PLAIN.fullmatch(text) is not None


def wrong_hosts(hosts: Iterable[object]) -> list[object]:
    """Return what cannot be used where hosts are given."""
    return [
        host
        for host in hosts
        if not (
            _is_network(str(host)) if _ADDRESS.fullmatch(str(host)) else _NAME.fullmatch(str(host))
        )
    ]


def wrong_networks(networks: Iterable[object]) -> list[object]:
    """Return what cannot be used where addresses and networks are given."""
    return [network for network in networks if not _is_network(str(network))]


def openings(
    host: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]],
    callers: Sequence[str],
    model_takers: Sequence[str],
    leaders: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Return by name what is open on a host: `ports`, and the `hosts` that may reach them.

    `host` has its name and all services' ports. Callers reach what the host's groups run on it;
    models are a gateway's to hand out, and a helper's cards its leader's to use.
    """
    is_rig, is_gateway, is_helper = (
        host["name"] in groups.get(name, ()) for name in ("rigs", "gateways", "helpers")
    )
    found: dict[str, dict[str, Any]] = {}
    ports = [host["node_exporter_port"]]
    if is_rig or is_helper:
        ports = [host["app_metrics_port"], *ports]
    if is_rig:
        ports = [host["app_port"], *ports]
    if is_gateway:
        ports = [*ports, host["nginx_exporter_port"]]
        found["models"] = {"ports": [host["model_mirror_port"]], "hosts": list(model_takers)}
    if is_helper:
        found["cards"] = {"ports": [host["rpc_server_base_port"]], "hosts": list(leaders)}
    found["callers"] = {"ports": ports, "hosts": list(callers)}
    return found


def opened(
    openings: Mapping[str, Mapping[str, Any]], answers: Answers
) -> dict[str, dict[str, list[Any]]]:
    """Return each opening's `ports`, once each, and the addresses `ipv4` and `ipv6`.

    The kernel's sets have one kind of address each.
    """
    found = {}
    for name, opening in openings.items():
        addresses = addresses_by(opening["hosts"], answers)
        found[name] = {
            "ports": list(dict.fromkeys(opening["ports"])),
            "ipv4": [address for address in addresses if ":" not in address],
            "ipv6": [address for address in addresses if ":" in address],
        }
    return found


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "address_questions": address_questions,
            "addresses_by": addresses_by,
            "without_address": without_address,
            "wrong_hosts": wrong_hosts,
            "wrong_networks": wrong_networks,
            "firewall_openings": openings,
            "firewall_opened": opened,
        }
