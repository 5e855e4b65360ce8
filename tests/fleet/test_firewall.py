"""Who reaches which port of the hosts, and what else happens to their rules."""

import json
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.fleet.harness import GATEWAY_PORT, Fleet, wait_for

RIG_PORTS = (8080, 9091, 9100)
MIRROR_PORT = 4001
METRICS_PORTS = (9100, 9113)
UNIT = "heartcode-firewall.service"
# As `curl` says it: refused at once, not silence until a timeout.
OPEN, REFUSED = "open", "refused"


def seen_from(fleet: Fleet, host: str, target: str, *ports: int) -> dict[int, str]:
    """What a host sees of another's ports."""
    asked = f"""
import socket
for port in {ports}:
    try:
        socket.create_connection(("{fleet.addresses[target]}", port), timeout=5).close()
        print(port, "{OPEN}")
    except ConnectionRefusedError:
        print(port, "{REFUSED}")
"""
    lines = fleet.ssh(host, f"python3 - <<'END'\n{asked}\nEND").splitlines()
    return {int(port): state for port, state in map(str.split, lines)}


def seen_from_here(fleet: Fleet, target: str, port: int, *, source: str = "") -> str:
    try:
        address = (fleet.addresses[target], port)
        socket.create_connection(address, timeout=5, source_address=(source, 0)).close()
    except ConnectionRefusedError:
        return REFUSED
    return OPEN


def listening(fleet: Fleet, host: str, *ports: int) -> bool:
    told = fleet.ssh(host, "ss -Hltn")
    return all(f":{port} " in told for port in ports)


@pytest.fixture
def stranger(fleet: Fleet) -> Iterator[str]:
    """An address in the hosts' network that nobody has let in."""
    known = json.loads((fleet.directory / "fleet.json").read_text())
    address = known["subnet"].replace(".0/24", ".250")
    place = (f"{address}/24", "dev", known["bridge"])
    subprocess.run(["ip", "address", "replace", *place], check=True)
    yield address
    subprocess.run(["ip", "address", "del", *place], check=True)


def test_a_rig_s_ports_are_open_to_the_gateway_alone(fleet: Fleet) -> None:
    assert listening(fleet, "rig2", *RIG_PORTS)
    assert seen_from(fleet, "gateway", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, OPEN)
    assert seen_from(fleet, "rig1", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, REFUSED)


def test_a_rig_reaches_its_own_ports(fleet: Fleet) -> None:
    assert seen_from(fleet, "rig2", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, OPEN)


def test_this_machine_is_let_in_and_a_stranger_beside_it_is_not(
    fleet: Fleet, stranger: str
) -> None:
    for port in RIG_PORTS:
        assert seen_from_here(fleet, "rig2", port) == OPEN
        assert seen_from_here(fleet, "rig2", port, source=stranger) == REFUSED
    # What is not ours is left alone.
    assert seen_from_here(fleet, "rig2", 22, source=stranger) == OPEN


def test_the_gateway_hands_models_to_rigs_alone(fleet: Fleet, stranger: str) -> None:
    assert listening(fleet, "gateway", MIRROR_PORT, *METRICS_PORTS)
    seen = seen_from(fleet, "rig1", "gateway", MIRROR_PORT, *METRICS_PORTS, GATEWAY_PORT)
    refused = dict.fromkeys(METRICS_PORTS, REFUSED)
    assert seen == {MIRROR_PORT: OPEN, GATEWAY_PORT: OPEN} | refused
    assert seen_from_here(fleet, "gateway", MIRROR_PORT) == REFUSED
    assert seen_from_here(fleet, "gateway", GATEWAY_PORT, source=stranger) == OPEN


@pytest.fixture
def on_ipv6(fleet: Fleet) -> Iterator[str]:
    """An address of rig2, on which something listens at port 9091; rig1 has one beside it."""
    for rig in ("rig1", "rig2"):
        fleet.ssh(rig, "sysctl -q net.ipv6.conf.host0.disable_ipv6=0")
        fleet.ssh(rig, f"ip address add fd00:4843::{rig[-1]}/64 dev host0 nodad")
    program = (
        "import signal, socket; "
        "s = socket.create_server(('::', 9091), family=socket.AF_INET6); "
        "signal.pause()"
    )
    fleet.ssh("rig2", f'systemd-run --quiet --unit=on-ipv6 python3 -c "{program}"')
    wait_for(lambda: "[::]:9091" in fleet.ssh("rig2", "ss -Hltn"), "it listens")
    yield "fd00:4843::2"
    fleet.ssh("rig2", "systemctl stop on-ipv6")
    for rig in ("rig1", "rig2"):
        fleet.ssh(rig, f"ip address del fd00:4843::{rig[-1]}/64 dev host0")


def test_ipv6_is_closed_as_well(fleet: Fleet, on_ipv6: str) -> None:
    """No host has an IPv6 address in the inventory, so that none is let in."""

    def reach(host: str, port: int) -> str:
        asked = f"import socket; socket.create_connection(('{on_ipv6}', {port}), timeout=5)"
        return fleet.ssh(host, f'python3 -c "{asked}" 2>&1', check=False)

    assert reach("rig1", 22) == ""
    assert reach("rig2", 9091) == ""
    assert "ConnectionRefusedError" in reach("rig1", 9091)


@pytest.mark.parametrize("verb", ["start", "reload", "restart", "stop"])
def test_the_rules_survive_what_is_done_to_nftables(fleet: Fleet, verb: str) -> None:
    if verb == "reload":
        fleet.ssh("rig2", "systemctl start nftables")
    try:
        fleet.ssh("rig2", f"systemctl {verb} nftables")
        assert seen_from(fleet, "rig1", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, REFUSED)
        assert seen_from(fleet, "gateway", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, OPEN)
    finally:
        fleet.ssh("rig2", "systemctl stop nftables")


def test_other_rules_are_left_alone(fleet: Fleet) -> None:
    chain = "chain input { type filter hook input priority 0; tcp dport 9 drop; }"
    others = f"table inet others {{ {chain}; }}"
    fleet.ssh("rig2", f"nft '{others}'")
    try:
        for verb in ("reload", "restart", "stop", "start"):
            fleet.ssh("rig2", f"systemctl {verb} {UNIT}")
            assert "tcp dport 9 drop" in fleet.ssh("rig2", "nft list table inet others")
    finally:
        fleet.ssh("rig2", "nft delete table inet others")
    assert seen_from(fleet, "rig1", "rig2", 8080) == {8080: REFUSED}


def deployed(fleet: Fleet, **variables: object) -> int:
    """Run the role on rig2; return how many of its tasks changed something."""
    said = fleet.deploy("firewall", limit="rig2", **variables)
    (changed,) = re.findall(r"rig2 .*changed=(\d+)", said)
    return int(changed)


@pytest.mark.long
def test_rules_that_were_flushed_come_back_and_those_that_are_not_wanted_go(fleet: Fleet) -> None:
    fleet.ssh("rig2", "nft flush ruleset")
    assert seen_from(fleet, "rig1", "rig2", 8080) == {8080: OPEN}
    assert deployed(fleet) == 1
    assert seen_from(fleet, "rig1", "rig2", 8080) == {8080: REFUSED}
    assert deployed(fleet) == 0
    try:
        deployed(fleet, firewall_enabled=False)
        assert seen_from(fleet, "rig1", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, OPEN)
        assert fleet.state("rig2", UNIT) == "inactive"
        assert deployed(fleet, firewall_enabled=False) == 0
        # A network that holds other addresses of the list, and one of the other protocol.
        subnet = json.loads((fleet.directory / "fleet.json").read_text())["subnet"]
        deployed(fleet, firewall_monitoring_addresses=[subnet, "fd00::/8", "localhost"])
        assert seen_from(fleet, "rig1", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, OPEN)
        assert "fd00::/8" in fleet.ssh("rig2", "nft list table inet heartcode")
    finally:
        deployed(fleet)
    assert seen_from(fleet, "rig1", "rig2", *RIG_PORTS) == dict.fromkeys(RIG_PORTS, REFUSED)
