"""What is told of every rig and card, and what the script makes of it."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.fleet.counting import chat, events
from tests.fleet.harness import ROOT, Fleet, wait_for

PROXY_PORT = 8080


def check(
    fleet: Fleet, *arguments: str, url: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/health_check.sh", *arguments, url or fleet.url],
        env=os.environ | {"HEARTCODE_API_KEY": fleet.key} | env,
        capture_output=True,
        text=True,
        check=False,
    )


def rigs(fleet: Fleet, url: str = "") -> dict[str, dict[str, Any]]:
    answer = requests.get(f"{url or fleet.url}/fleet", headers=fleet.authorization, timeout=30)
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


def row(done: subprocess.CompletedProcess[str], *begin: str) -> list[str]:
    """The row of the table that begins with these words."""
    (found,) = [
        words
        for words in map(str.split, done.stdout.split("\n\n")[1].splitlines())
        if words[: len(begin)] == list(begin)
    ]
    return found


def test_a_whole_fleet(fleet: Fleet) -> None:
    done = check(fleet)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"all 4 cards of {len(fleet.rigs)} rigs serve" in done.stdout
    assert "\033" not in done.stdout
    for rig in fleet.rigs:
        for number in range(2):
            address = f"127.0.0.1:{8081 + number}"
            assert row(done, rig, str(number))[2:5] == [address, "counting", "up"]
    told = json.loads(check(fleet, "--json").stdout)
    assert [rig["name"] for rig in told["rigs"]] == fleet.rigs


def test_slots_in_use_are_told(fleet: Fleet) -> None:
    def busy() -> int:
        return sum(card["busy"] for rig in rigs(fleet).values() for card in rig["backends"])

    def told() -> bool:
        # On a busy machine a stream may be over before anybody asks.
        with chat(fleet, max_tokens=3500, stream=True) as response:
            next(events(response))
            return busy() == 1

    wait_for(lambda: busy() == 0, "nothing is being answered")
    wait_for(told, "the slot of a stream is told as busy")
    wait_for(lambda: busy() == 0, "it is free again")
    assert {card["slots"] for rig in rigs(fleet).values() for card in rig["backends"]} == {2}


@pytest.mark.usefixtures("disturbs")
def test_a_backend_that_is_stopped(fleet: Fleet) -> None:
    fleet.ssh("rig1", "systemctl stop heartcode-llama@1")
    try:
        wait_for(lambda: states(fleet)["rig1"] == ("degraded", ["up", "down"]), "it is down")
        done = check(fleet)
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
        done = check(fleet)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "card 1 of rig1 is gone" in done.stdout
    finally:
        # What its timer does within a minute.
        fleet.ssh("rig1", "simulated-cards restore 1 && systemctl start heartcode-card@1.service")


@pytest.mark.usefixtures("disturbs")
def test_a_rig_that_drains(fleet: Fleet) -> None:
    fleet.ssh("rig2", "touch /run/heartcode/draining")
    try:
        done = check(fleet)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "2 of 4 cards serve: rig2 is draining" in done.stdout
    finally:
        fleet.ssh("rig2", "rm /run/heartcode/draining")


@pytest.mark.long
@pytest.mark.usefixtures("disturbs")
def test_a_rig_without_power_then_all(fleet: Fleet) -> None:
    fleet.tool("stop", "rig2")
    try:
        done = check(fleet)
        assert done.returncode == 3, done.stdout + done.stderr
        assert "2 of 2 cards serve: rig2 is unreachable" in done.stdout
        assert row(done, "rig2") == ["rig2", "-", "-", "-", "unreachable", "-"]
        assert rigs(fleet)["rig2"] == {"name": "rig2", "state": "unreachable", "backends": []}
        fleet.tool("stop", "rig1")
        done = check(fleet)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "none of 0 cards serves: rig1 is unreachable" in done.stdout
        for rig in fleet.rigs:
            assert row(done, rig)[4] == "unreachable"
    finally:
        for rig in fleet.rigs:
            fleet.tool("start", rig)


def test_a_rig_tells_of_its_own_cards(fleet: Fleet) -> None:
    done = check(fleet, url=f"http://{fleet.addresses['rig1']}:{PROXY_PORT}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 2 cards of 1 rig serve" in done.stdout
    assert row(done, fleet.ssh("rig1", "hostname"), "1")[4] == "up"


def test_a_wrong_key_and_none(fleet: Fleet) -> None:
    for key, advice in (("x" * 40, "was not accepted"), ("", "No API key was sent")):
        done = check(fleet, HEARTCODE_API_KEY=key)
        assert done.returncode == 1
        assert "FAIL  cards" in done.stdout
        assert advice in done.stdout.partition("FAIL  cards")[2]


@pytest.mark.parametrize(
    ("method", "query", "status"), [("GET", "?format=xml", 400), ("POST", "", 405)]
)
def test_what_cannot_be_asked(fleet: Fleet, method: str, query: str, status: int) -> None:
    answer = requests.request(
        method, f"{fleet.url}/fleet{query}", headers=fleet.authorization, timeout=30
    )
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


def test_the_locations_of_single_rigs_are_closed(fleet: Fleet) -> None:
    answer = requests.get(f"{fleet.url}/.heartcode/rig/0", headers=fleet.authorization, timeout=30)
    assert answer.status_code == 404
