"""Which rig a helper's cards are for, and under which addresses both reach each other."""

from typing import Any

import pytest

from plugins.filter.lending import address, addresses, faults, gpus, leaders, served, settings


def hostvars(**helpers: Any) -> dict[str, dict[str, Any]]:
    return {name: {"llama_server_helpers": said} for name, said in helpers.items()}


GROUPS = {"rigs": ["rig1", "rig3"], "helpers": ["rig2"]}


def test_a_helper_s_leader_is_the_rig_that_names_it() -> None:
    known = hostvars(rig1=["rig2", "rig4"], rig3=[])
    assert leaders("rig2", GROUPS, known) == ["rig1"]
    assert faults("rig2", GROUPS, known) == []


def test_a_rig_that_names_nobody_leads_nobody() -> None:
    assert leaders("rig2", GROUPS, {"rig1": {}, **hostvars(rig3=None)}) == []
    assert leaders("rig2", {}, {}) == []
    # A part of a name is no name.
    assert leaders("rig2", GROUPS, hostvars(rig1="rig2", rig3=["rig22"])) == []


@pytest.mark.parametrize(
    ("groups", "known", "says"),
    [
        (GROUPS, hostvars(rig1=[], rig3=[]), "no rig has it in its llama_server_helpers"),
        (
            GROUPS,
            hostvars(rig1=["rig2"], rig3=["rig2"]),
            "rig1 and rig3 have rig2 in their llama_server_helpers",
        ),
        (
            {"rigs": ["rig1", "rig2"], "helpers": ["rig2"]},
            hostvars(rig1=["rig2"], rig2=None),
            "rig2 is in the groups rigs and helpers",
        ),
    ],
)
def test_an_inventory_that_cannot_be_is_told(
    groups: dict[str, list[str]], known: dict[str, dict[str, Any]], says: str
) -> None:
    (said,) = faults("rig2", groups, known)
    assert says in said


def answer(*lines: str) -> dict[str, Any]:
    return {"rc": 0 if lines else 2, "stdout_lines": list(lines)}


ASKED = {"helper": "rig2.lan", "leader": "192.168.1.21"}
OWN = answer(
    "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever preferred_lft forever",
    "2: eth0    inet 192.168.1.22/24 brd 192.168.1.255 scope global eth0\\       valid_lft forever",
    "3: wg0    inet 10.0.0.2 peer 10.0.0.1/32 scope global wg0\\       valid_lft forever",
)
LEADER = answer("192.168.1.21    STREAM 192.168.1.21", "192.168.1.21    DGRAM  ")
HELPER = answer("192.168.1.22    STREAM rig2.lan", "192.168.1.22    DGRAM  ")
ROUTE = answer("192.168.1.22 dev eth0 src 192.168.1.21 uid 0 \\    cache ")
AT_LEADER = {"helper": HELPER, "route": ROUTE}


def test_it_lends_where_its_leader_reaches_it() -> None:
    assert address({"helper": HELPER}, {"own": OWN}) == "192.168.1.22"
    assert addresses("rig2", ASKED, AT_LEADER, {"leader": LEADER, "own": OWN}) == {
        "address": "192.168.1.22",
        "leader": ["192.168.1.21"],
        "faults": [],
    }


def test_of_several_addresses_its_own_counts() -> None:
    several = answer("203.0.113.9 STREAM rig2", "10.0.0.2 STREAM", "192.168.1.22 STREAM")
    at_leader = {"helper": several, "route": ROUTE}
    found = addresses("rig2", ASKED, at_leader, {"leader": LEADER, "own": OWN})
    assert (found["address"], found["faults"]) == ("10.0.0.2", [])


@pytest.mark.parametrize("known", [LEADER, answer()])
def test_a_leader_with_several_networks_comes_from_the_one_on_its_way(
    known: dict[str, Any],
) -> None:
    over = answer("192.168.1.22 via 10.0.0.1 dev eth1 src 10.0.0.21 uid 0 \\    cache ")
    at_leader = {"helper": HELPER, "route": over}
    found = addresses("rig2", ASKED, at_leader, {"leader": known, "own": OWN})
    assert found["leader"] == ["10.0.0.21", *(["192.168.1.21"] if known is LEADER else [])]
    assert found["faults"] == []


def test_one_host_under_two_names_helps_nobody() -> None:
    own = answer("local 192.168.1.22 dev lo src 192.168.1.22 uid 0 \\    cache <local> ")
    at_leader = {"helper": HELPER, "route": own}
    (said,) = addresses("rig2", ASKED, at_leader, {"leader": HELPER, "own": OWN})["faults"]
    assert said.startswith("rig2 and its leader are one host, 192.168.1.22: ")


def test_a_helper_without_a_way_to_it_is_told() -> None:
    at_leader = {"helper": HELPER, "route": answer()}
    (said,) = addresses("rig2", ASKED, at_leader, {"leader": LEADER, "own": OWN})["faults"]
    assert "The leader of rig2 has no route to 192.168.1.22" in said


@pytest.mark.parametrize(
    ("helper", "says"),
    [
        (answer(), "rig2.lan has no IPv4 address to its leader"),
        (answer("203.0.113.9 STREAM rig2.lan"), "rig2.lan is 203.0.113.9 to its leader"),
        (answer("127.0.0.1 STREAM rig2.lan"), "rig2.lan is 127.0.0.1 to its leader"),
    ],
)
def test_an_address_that_is_not_its_own_is_told(helper: dict[str, Any], says: str) -> None:
    found = addresses("rig2", ASKED, {"helper": helper}, {"leader": LEADER, "own": OWN})
    assert found["address"] == ""
    (said,) = found["faults"]
    assert says in said
    assert "of which it has 192.168.1.22, 10.0.0.2, and" in said


def test_a_leader_without_an_address_is_told() -> None:
    at_leader = {"helper": answer(), "route": answer()}
    said = addresses("rig2", ASKED, at_leader, {"leader": answer(), "own": OWN})["faults"][1]
    assert "knows no IPv4 address of its leader, 192.168.1.21" in said


def test_cards_are_counted_one_by_one() -> None:
    backends: list[dict[str, Any]] = [
        {"uuid": "GPU-1+GPU-2", "power_limit_w": 90},
        {"uuid": "GPU-3"},
    ]
    assert gpus(backends) == [{"uuid": "GPU-1"}, {"uuid": "GPU-2"}, {"uuid": "GPU-3"}]
    assert settings(backends) == ["power_limit_w"]
    assert settings([{"uuid": "cpu"}]) == []


def test_backends_of_a_rig_are_told_by_their_settings() -> None:
    paths = ["/etc/heartcode/llama/10.env", "/etc/heartcode/llama/2.env", "/etc/heartcode/x.env"]
    assert served(paths) == [2, 10]
