"""What is told of every rig and card, and what the script makes of it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.counting import chat
from tests.gateway.clients import error_of, get
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import Gateway
from tests.gateway.rigs import SLOTS, Rig, ports, standing_still
from tests.health_check import check, row
from tests.integration.processes import wait_until


@pytest.fixture
def gateway(start_gateway: StartGateway, rigs: list[Rig]) -> Gateway:
    return start_gateway(rigs=ports(rigs))


def told(gateway: Gateway) -> dict[str, dict[str, Any]]:
    answer = get(gateway, "/fleet", **gateway.authorization)
    assert answer.status_code == 200, answer.text
    return {rig["name"]: rig for rig in answer.json()["rigs"]}


def cards(rigs: Iterable[dict[str, Any]], field: str) -> list[Any]:
    return [card[field] for rig in rigs for card in rig["backends"]]


def test_a_whole_fleet(gateway: Gateway, rigs: list[Rig]) -> None:
    done = check(gateway.url, gateway.key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 2 cards of 2 rigs serve" in done.stdout
    assert "\033" not in done.stdout
    for rig in rigs:
        address = rig.llama.url.removeprefix("http://")
        assert row(done, rig.name, "0")[2:5] == [address, "counting", "up"]
    in_json = json.loads(check(gateway.url, gateway.key, "--json").stdout)
    assert [rig["name"] for rig in in_json["rigs"]] == ["rig1", "rig2"]


def test_slots_in_use_are_told(gateway: Gateway, rigs: list[Rig]) -> None:
    def busy() -> int:
        return sum(cards(told(gateway).values(), "busy"))

    wait_until(lambda: busy() == 0, "nothing is being answered")
    with ThreadPoolExecutor(1) as pool:
        with standing_still(rigs):
            answer = pool.submit(chat, gateway, max_tokens=1)
            wait_until(lambda: busy() == 1, "one slot is in use")
        assert answer.result().ok
    assert set(cards(told(gateway).values(), "slots")) == {SLOTS}


def test_a_rig_that_drains(gateway: Gateway, rigs: list[Rig]) -> None:
    with rigs[1].draining():
        done = check(gateway.url, gateway.key)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 of 2 cards serve: rig2 is draining" in done.stdout


@pytest.fixture
def closed() -> Iterator[int]:
    """A port on which connections are refused."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        yield door.getsockname()[1]


def test_a_rig_that_cannot_be_reached(
    start_gateway: StartGateway, rigs: list[Rig], closed: int
) -> None:
    gateway = start_gateway(rigs=[rigs[0].port, closed])
    done = check(gateway.url, gateway.key)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "1 of 1 cards serve: rig2 is unreachable" in done.stdout
    assert row(done, "rig2") == ["rig2", "-", "-", "-", "unreachable", "-"]
    assert told(gateway)["rig2"] == {
        "name": "rig2",
        "version": "-",
        "state": "unreachable",
        "backends": [],
    }


def test_no_rig_can_be_reached(start_gateway: StartGateway, closed: int) -> None:
    gateway = start_gateway(rigs=[closed, closed])
    done = check(gateway.url, gateway.key)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "none of 0 cards serves: rig1 is unreachable" in done.stdout
    for rig in ("rig1", "rig2"):
        assert row(done, rig)[4] == "unreachable"


def test_a_rig_tells_of_its_own_cards(rigs: list[Rig]) -> None:
    done = check(rigs[0].proxy.url, "")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 1 cards of 1 rig serve" in done.stdout
    assert row(done, socket.gethostname(), "0")[4] == "up"


@pytest.mark.parametrize(
    ("key", "advice"), [("x" * 40, "was not accepted"), ("", "No API key was sent")]
)
def test_a_wrong_key_and_none(start_gateway: StartGateway, key: str, advice: str) -> None:
    done = check(start_gateway().url, key)
    assert done.returncode == 1
    assert "FAIL  cards" in done.stdout
    assert advice in done.stdout.partition("FAIL  cards")[2]


@pytest.mark.parametrize(
    ("method", "query", "status"), [("GET", "?format=xml", 400), ("POST", "", 405)]
)
def test_what_cannot_be_asked(
    start_gateway: StartGateway, method: str, query: str, status: int
) -> None:
    gateway = start_gateway()
    answer = requests.request(
        method, f"{gateway.url}/fleet{query}", headers=gateway.authorization, timeout=30
    )
    assert answer.status_code == status
    assert error_of(answer)["message"]


def test_the_locations_of_single_rigs_are_closed(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    answer = get(gateway, "/.heartcode/rig/0", **gateway.authorization)
    assert answer.status_code == 404
