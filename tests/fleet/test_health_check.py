"""What is told of cards that systemd and the driver take away, and what the script makes of it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.fleet.harness import Fleet, wait_for
from tests.health_check import check, row


def rigs(fleet: Fleet) -> dict[str, dict[str, Any]]:
    answer = requests.get(f"{fleet.url}/fleet", headers=fleet.authorization, timeout=30)
    assert answer.status_code == 200, answer.text
    return {rig["name"]: rig for rig in answer.json()["rigs"]}


def states(fleet: Fleet) -> dict[str, tuple[str, list[str]]]:
    return {
        name: (rig["state"], [backend["state"] for backend in rig["backends"]])
        for name, rig in rigs(fleet).items()
    }


UP = ("up", ["up", "up"])


@pytest.fixture(autouse=True)
def all_up(fleet: Fleet) -> Iterator[None]:
    """Each test begins and ends with a whole fleet."""
    whole = dict.fromkeys(fleet.rigs, UP)
    wait_for(lambda: states(fleet) == whole, "every card is up", timeout_s=120)
    yield
    wait_for(lambda: states(fleet) == whole, "every card is up again", timeout_s=120)


def test_a_whole_fleet(fleet: Fleet) -> None:
    done = check(fleet.url, fleet.key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"all 4 cards of {len(fleet.rigs)} rigs serve" in done.stdout
    assert "\033" not in done.stdout
    for rig in fleet.rigs:
        for number in range(2):
            address = f"127.0.0.1:{8081 + number}"
            assert row(done, rig, str(number))[2:5] == [address, "counting", "up"]
    told = json.loads(check(fleet.url, fleet.key, "--json").stdout)
    assert [rig["name"] for rig in told["rigs"]] == fleet.rigs


@pytest.mark.usefixtures("disturbs")
def test_a_backend_that_is_stopped(fleet: Fleet) -> None:
    fleet.ssh("rig1", "systemctl stop heartcode-llama@1")
    try:
        wait_for(lambda: states(fleet)["rig1"] == ("degraded", ["up", "down"]), "it is down")
        done = check(fleet.url, fleet.key)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "3 of 4 cards serve: card 1 of rig1 is down" in done.stdout
        assert "On rig1: systemctl status heartcode-llama@1" in done.stdout
        assert row(done, "rig1", "1")[4] == "down"
        assert row(done, "rig2", "1")[4] == "up"
    finally:
        fleet.ssh("rig1", "systemctl start heartcode-llama@1")


@pytest.mark.usefixtures("disturbs")
def test_a_card_that_is_gone(fleet: Fleet) -> None:
    fleet.ssh("rig1", "simulated-cards lose 1 && systemctl restart heartcode-llama@1", check=False)
    try:
        wait_for(lambda: states(fleet)["rig1"] == ("degraded", ["up", "gone"]), "it is gone")
        done = check(fleet.url, fleet.key)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "card 1 of rig1 is gone" in done.stdout
    finally:
        # What its timer does within a minute.
        fleet.ssh("rig1", "simulated-cards restore 1 && systemctl start heartcode-card@1.service")
