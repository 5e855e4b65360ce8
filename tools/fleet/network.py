"""The fleet's network: a subnet, a bridge, address translation, pulled cables."""

import ipaddress
import json
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from tools.fleet.model import Fleet, Machine
from tools.fleet.system import RUN_DIR, FleetError, run, say

_IP_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
#: Holds what ip_forward was before the first fleet, for the last one to put back.
_IP_FORWARD_BEFORE = "ip_forward"

_CANDIDATES = (
    ipaddress.IPv4Network("10.183.0.0/16"),
    ipaddress.IPv4Network("172.29.0.0/16"),
    ipaddress.IPv4Network("192.168.128.0/17"),
)


def free_subnet(used: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first private /24 that touches none of the networks in use.

    Raises:
        FleetError: every candidate is taken.
    """
    taken = list(used)
    for subnet in chain.from_iterable(block.subnets(new_prefix=24) for block in _CANDIDATES):
        if not any(subnet.overlaps(network) for network in taken):
            return subnet
    blocks = ", ".join(str(block) for block in _CANDIDATES)
    raise FleetError(f"no free private /24 in {blocks}: `ip route` shows what takes them")


def parse_networks(
    addresses: list[dict[str, Any]], routes: list[dict[str, Any]]
) -> list[ipaddress.IPv4Network]:
    """IPv4 networks that this host has or reaches, from ``ip -json address`` and ``route``.

    The default route is left out: it says nothing about what is taken.
    """
    found = {
        ipaddress.IPv4Network(f"{info['local']}/{info['prefixlen']}", strict=False)
        for link in addresses
        for info in link.get("addr_info", ())
        if info.get("family") == "inet"
    }
    for route in routes:
        destination = str(route.get("dst", "default"))
        if destination != "default" and ":" not in destination:
            network = ipaddress.IPv4Network(destination, strict=False)
            if network.prefixlen > 0:
                found.add(network)
    return sorted(found)


def networks_in_use(nameservers: Iterable[str] = ()) -> list[ipaddress.IPv4Network]:
    """Networks that a new fleet must keep clear of, with those of the fleets known here."""
    addresses = json.loads(run("ip", "-json", "-4", "address").stdout or "[]")
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "table", "all").stdout or "[]")
    used = parse_networks(addresses, routes)
    for entry in RUN_DIR.glob("*/fleet.json"):
        used.append(ipaddress.IPv4Network(json.loads(entry.read_text())["subnet"]))
    used += [ipaddress.IPv4Network(server) for server in nameservers if ":" not in server]
    return used


def uplink_mtu() -> int:
    """Packet size of the interface with the default route; 1500 bytes where there is none."""
    routes = json.loads(run("ip", "-json", "-4", "route", "show", "default").stdout or "[]")
    for route in routes:
        try:
            return int(Path(f"/sys/class/net/{route['dev']}/mtu").read_text())
        except (OSError, KeyError):
            continue
    return 1500


def link_exists(name: str) -> bool:
    """Whether this host has a network interface of that name."""
    return Path(f"/sys/class/net/{name}").exists()


def fleet_links(fleet_id: str) -> list[str]:
    """The host's interfaces that belong to a fleet: its bridge and its machines' cables."""
    names = (entry.name for entry in Path("/sys/class/net").iterdir())
    return [n for n in names if n == f"hc-{fleet_id}" or n.startswith(f"vb-hc-{fleet_id}-")]


def masquerade_rules(fleet: Fleet) -> str:
    """The fleet's firewall table for ``nft -f``: replaces an older one in one step."""
    table = f"table ip {fleet.nft_table}"
    return (
        f"{table}\n"
        f"delete {table}\n"
        f"{table} {{\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        f"    ip saddr {fleet.subnet} ip daddr != {fleet.subnet} masquerade\n"
        "  }\n"
        "}\n"
    )


def bring_up(fleet: Fleet) -> None:
    """Make the fleet's bridge and address translation, or mend what is missing of them."""
    bridge = fleet.bridge
    if not link_exists(bridge):
        run("ip", "link", "add", "name", bridge, "type", "bridge")
    # Else the bridge changes its own address with every machine that comes or goes.
    mac = f"02:48:43:00:{fleet.id[:2]}:{fleet.id[2:]}"
    run("ip", "link", "set", bridge, "address", mac, "mtu", str(uplink_mtu()), "up")
    run("ip", "address", "replace", f"{fleet.host_address}/24", "dev", bridge)
    run("nft", "-f", "-", stdin=masquerade_rules(fleet))
    before = RUN_DIR / _IP_FORWARD_BEFORE
    if _IP_FORWARD.read_text().strip() == "0":
        before.write_text("0")
        _IP_FORWARD.write_text("1")
    _warn_of_closed_firewalls(fleet)


def restore_forwarding() -> None:
    """Put ip_forward back as it was before the first fleet; for the last fleet's end."""
    before = RUN_DIR / _IP_FORWARD_BEFORE
    if before.exists():
        _IP_FORWARD.write_text(before.read_text())
        before.unlink()


def closed_forward_tables(ruleset: dict[str, Any]) -> list[str]:
    """Tables that drop forwarded packets by policy, from ``nft -j list chains``."""
    chains = (entry["chain"] for entry in ruleset.get("nftables", ()) if "chain" in entry)
    return sorted(
        f"{chain['family']} {chain['table']}"
        for chain in chains
        if chain.get("hook") == "forward" and chain.get("policy") == "drop"
    )


def _warn_of_closed_firewalls(fleet: Fleet) -> None:
    listing = run("nft", "-j", "list", "chains", check=False)
    if listing.returncode != 0 or not listing.stdout:
        return
    for table in closed_forward_tables(json.loads(listing.stdout)):
        # No table of ours can overrule it: a drop in any table is final (nft(8)).
        say(
            f"warning: the firewall table '{table}' of this host drops forwarded packets; if the"
            f" machines reach no package mirror, let it accept those from and to {fleet.bridge}"
        )


def set_cable(machine: Machine, *, up: bool) -> None:
    """Plug or pull a machine's network cable; nothing to do while the machine is off."""
    if link_exists(machine.host_link):
        done = run("ip", "link", "set", machine.host_link, "up" if up else "down", check=False)
        # The machine may be switched off just now.
        if done.returncode != 0 and link_exists(machine.host_link):
            raise FleetError(f"cannot switch {machine.host_link}: {done.stderr.strip()}")
