"""Requests leave a rig that drains or is lost; what else routes them is asked in tests/gateway."""

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tests.counting import chat, count_to
from tests.fleet.harness import Fleet, log_line, wait_for

DRAINING = "/run/heartcode/draining"


def turns(said: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": said}]


def served_by(fleet: Fleet, **fields: Any) -> str:
    """The rig that has answered, the last of those that were asked."""
    identity = f"routing-{uuid.uuid4()}"
    answer = chat(fleet, max_tokens=1, headers={"X-Request-Id": identity}, **fields)
    assert answer.status_code == 200, answer.text
    # The relay's addresses of the rigs end as their own do.
    names = {
        f"127.{address.partition('.')[2]}:4003": name for name, address in fleet.addresses.items()
    }
    return names[log_line(fleet, identity)["rig"].replace(" : ", ", ").split(", ")[-1]]


def active(fleet: Fleet) -> dict[str, int]:
    """How many requests each rig has taken in and not answered."""
    found = {}
    for rig in fleet.rigs:
        text = requests.get(f"http://{fleet.addresses[rig]}:9091/metrics", timeout=10).text
        (line,) = (x for x in text.splitlines() if x.startswith("active_requests "))
        found[rig] = round(float(line.split()[-1]))
    return found


def slots(fleet: Fleet) -> dict[str, int]:
    return {rig: 2 * sum(name == rig for name, _ in fleet.backends()) for rig in fleet.rigs}


@contextmanager
def requests_that_stay(fleet: Fleet, number: int) -> Iterator[list[Future[requests.Response]]]:
    """So many requests that keep their slots until the end.

    All llama-servers stand still meanwhile; the rigs would call that a hang after 45 s.
    """
    signal = "systemctl kill --signal={} 'heartcode-llama@*.service'"
    with ThreadPoolExecutor(number) as pool:
        for rig in fleet.rigs:
            fleet.ssh(rig, signal.format("STOP"))
        try:
            sent = [
                pool.submit(chat, fleet, max_tokens=20, messages=turns(uuid.uuid4().hex))
                for _ in range(number)
            ]
            wait_for(
                lambda: sum(active(fleet).values()) == number, f"the rigs have {number} requests"
            )
            yield sent
        finally:
            for rig in fleet.rigs:
                fleet.ssh(rig, signal.format("CONT"))
    for answer in sent:
        content = answer.result().json()["choices"][0]["message"]["content"]
        assert content.split() == count_to(20)


@pytest.mark.usefixtures("disturbs")
def test_a_draining_rig_gets_nothing_new_and_ends_what_it_has(fleet: Fleet) -> None:
    try:
        with requests_that_stay(fleet, sum(slots(fleet).values())):
            fleet.ssh("rig1", f"touch {DRAINING}")
        rigs = {served_by(fleet, messages=turns(f"While it drains {n}")) for n in range(8)}
    finally:
        fleet.ssh("rig1", f"rm -f {DRAINING}")
    assert rigs == {"rig2"}


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_request_moves_off_a_rig_whose_cable_is_pulled(fleet: Fleet) -> None:
    """Its connection stays open and silent: the keepalive of the gateway's relay finds out."""
    with requests_that_stay(fleet, 1) as (sent,):
        (rig,) = (name for name, number in active(fleet).items() if number)
        (other,) = set(fleet.rigs) - {rig}
        fleet.ssh(other, "systemctl kill --signal=CONT 'heartcode-llama@*.service'")
        fleet.tool("cut", rig)
        try:
            assert sent.result(timeout=90).status_code == 200
        finally:
            fleet.tool("restore", rig)
