"""Names, addresses and networks of those who are let in."""

from typing import Any

from plugins.filter.addresses import address_questions, addresses_by, without_address

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
