"""Names, addresses and networks of those who are let in."""

from typing import Any

import pytest

from plugins.filter.addresses import (
    address_questions,
    addresses_by,
    opened,
    openings,
    without_address,
    wrong_hosts,
    wrong_networks,
)

HOSTS = ["192.168.1.5", "box", "fd00::5", "10.0.0.0/8", "chat.example.org", "box"]
ANSWERS: dict[str, dict[str, Any]] = {
    "box": {
        "rc": 0,
        "stdout_lines": ["192.168.1.9     STREAM box", "192.168.1.9     DGRAM", "fe80::1 STREAM"],
    },
    "chat.example.org": {"rc": 2, "stdout_lines": []},
}


def test_names_alone_are_looked_up() -> None:
    assert address_questions(HOSTS) == {
        "box": ["getent", "ahosts", "box"],
        "chat.example.org": ["getent", "ahosts", "chat.example.org"],
    }
    assert address_questions(["10.0.0.1", "::1"]) == {}


def test_what_has_no_address_is_named() -> None:
    assert without_address(HOSTS, ANSWERS) == ["chat.example.org"]
    assert without_address(["10.0.0.1"], {}) == []


def test_each_address_is_there_once() -> None:
    assert addresses_by(HOSTS, ANSWERS) == [
        "10.0.0.0/8",
        "192.168.1.5",
        "192.168.1.9",
        "fd00::5",
        "fe80::1",
    ]
    assert addresses_by(["::1"], {}) == ["::1"]


RIGHT = ["192.168.1.5", "10.0.0.0/8", "fd00::5", "::1", "fd00::/8", "::ffff:10.0.0.1"]
WRONG = [
    *("", "a b", "http://box", "10.0.0.1:80", "10.0.0.0/", "10.0.0.0/255.0.0.0", "10.0.0.0/33"),
    *("10.0.0", "10.0.0.256", "192.168.01.5", "fd00::/129", "fd00::1::2", "fd00:::1", "fe80::1%e"),
]


def test_what_is_no_address_network_or_name_is_found() -> None:
    assert wrong_hosts([*RIGHT, "box", "rig_1", "chat.example.org", *WRONG, "[::1]", "-x"]) == [
        *WRONG,
        "[::1]",
        "-x",
    ]
    assert wrong_hosts([]) == []


def test_a_name_is_no_network() -> None:
    assert wrong_networks([*RIGHT, "192.168.1.5/24", "box", *WRONG]) == ["box", *WRONG]


PORTS = {
    "app_port": 8080,
    "app_metrics_port": 9091,
    "node_exporter_port": 9100,
    "nginx_exporter_port": 9113,
    "model_mirror_port": 4001,
    "rpc_server_base_port": 50052,
}


@pytest.mark.parametrize(
    ("groups", "callers_reach", "takers_reach"),
    [
        ({"rigs": ["a"], "gateways": ["b"]}, [8080, 9091, 9100], None),
        ({"gateways": ["a"]}, [9100, 9113], [4001]),
        ({"rigs": ["a"], "gateways": ["a", "b"]}, [8080, 9091, 9100, 9113], [4001]),
        ({}, [9100], None),
    ],
)
def test_the_ports_of_its_groups_are_open(
    groups: dict[str, list[str]], callers_reach: list[int], takers_reach: list[int] | None
) -> None:
    found = openings({"name": "a", **PORTS}, groups, ["gw"], ["rig1"])
    assert found["callers"] == {"ports": callers_reach, "hosts": ["gw"]}
    assert found.get("models") == (takers_reach and {"ports": takers_reach, "hosts": ["rig1"]})


@pytest.mark.parametrize("groups", [{"helpers": ["a"]}, {"helpers": ["a"], "gateways": ["a"]}])
def test_the_cards_of_a_helper_are_open_to_its_leader_alone(groups: dict[str, list[str]]) -> None:
    found = openings({"name": "a", **PORTS}, groups, ["gw"], [], ["rig1"])
    assert found["cards"] == {"ports": [50052], "hosts": ["rig1"]}
    assert found["callers"]["ports"][:2] == [9091, 9100]
    assert 50052 not in found["callers"]["ports"]
    assert "cards" not in openings({"name": "b", **PORTS}, groups, ["gw"], [], [])


def test_a_set_has_one_kind_of_address() -> None:
    given: dict[str, dict[str, Any]] = {
        "callers": {"ports": [9100, 9100, 80], "hosts": ["box", "fd00::5", "10.0.0.0/8"]},
        "models": {"ports": [4001], "hosts": []},
    }
    assert opened(given, ANSWERS) == {
        "callers": {
            "ports": [9100, 80],
            "ipv4": ["10.0.0.0/8", "192.168.1.9"],
            "ipv6": ["fd00::5", "fe80::1"],
        },
        "models": {"ports": [4001], "ipv4": [], "ipv6": []},
    }
