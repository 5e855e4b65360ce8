"""What becomes of a request whose rig cannot be reached, fails, or says nothing."""

from __future__ import annotations

import re
import threading
import uuid
from typing import Any

import pytest
import requests
from heartcode.settings import TABLE

from tests.counting import chat
from tests.gateway.clients import error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import NOWHERE, Gateway, Variants
from tests.gateway.rigs import ports, say_yes
from tests.integration.misbehaving import Behaviour, Connection, Request, Upstream, reset_at_once


def ask(gateway: Gateway, **fields: Any) -> requests.Response:
    """Ask as somebody whose conversation is nobody else's."""
    headers = gateway.authorization | {"X-Session-Id": uuid.uuid4().hex}
    return chat(gateway, max_tokens=1, headers=headers, **fields)


def fail(connection: Connection, _: Request) -> None:
    """Answer as a rig whose backends have failed."""
    connection.answer("502 Bad Gateway\r\nX-HeartCode-Error: backend_failed", b"{}")


@pytest.mark.parametrize("death", ["it refuses", "it hangs up", "it answers 502"])
@pytest.mark.parametrize("alive", range(4))
@pytest.mark.parametrize("variant", ["four_rigs", "two_of_four_rigs"])
def test_one_rig_of_four_is_enough(
    start_gateway: StartGateway, stand_ins: list[Upstream], death: str, alive: int, variant: str
) -> None:
    listening = ports(stand_ins)
    for number, rig in enumerate(stand_ins):
        if number != alive:
            rig.behave = fail if death == "it answers 502" else reset_at_once
            listening[number] = NOWHERE if death == "it refuses" else rig.port
    gateway = start_gateway(variant, rigs=listening)
    answers = [ask(gateway) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(stand_ins[alive].requests) == 4
    # Who has failed is left out for a while: nobody is asked twice, but for the last of a walk that
    # has not asked all. nginx passes its answer on, and marks those that it leaves for another.
    most = 1 if variant == "four_rigs" else 2
    assert all(len(rig.requests) <= most for rig in stand_ins if rig is not stand_ins[alive])


def test_a_request_that_every_rig_fails_is_brought_to_each_once(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    for rig in stand_ins:
        rig.behave = fail
    gateway = start_gateway("four_rigs", rigs=ports(stand_ins))
    answer = ask(gateway)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "backend_failed")
    assert [len(rig.requests) for rig in stand_ins] == [1, 1, 1, 1]


def be_busy(connection: Connection, request: Request) -> None:
    """Answer as a rig whose slots are busy, but not its queue."""
    if request.headers["x-heartcode-try"] == "queue":
        return say_yes(connection, request)
    return connection.answer("403 Forbidden\r\nX-HeartCode-Error: slots_busy", b"{}")


def be_full(connection: Connection, _: Request) -> None:
    connection.answer("403 Forbidden\r\nX-HeartCode-Error: queue_full\r\nRetry-After: 7", b"{}")


@pytest.mark.parametrize(
    ("behave", "status", "tries"),
    [(be_busy, 200, ["slot", "slot", "queue"]), (be_full, 429, ["slot", "slot", "queue", "queue"])],
)
def test_the_walk_along_the_ring_ends(
    start_gateway: StartGateway,
    stand_ins: list[Upstream],
    behave: Behaviour,
    status: int,
    tries: list[str],
) -> None:
    for rig in stand_ins:
        rig.behave = behave
    gateway = start_gateway("two_of_four_rigs", rigs=ports(stand_ins))
    assert ask(gateway).status_code == status
    sent = [request.headers["x-heartcode-try"] for rig in stand_ins for request in rig.requests]
    assert sorted(sent, reverse=True) == tries


def be_unreachable(connection: Connection, _: Request) -> None:
    """Answer as the relay does for a rig that it cannot reach."""
    connection.answer("502 Bad Gateway", b"{}")


@pytest.mark.parametrize("variant", ["default", "four_rigs"])
@pytest.mark.parametrize("behave", [fail, be_unreachable, reset_at_once])
def test_a_busy_rig_is_waited_for_where_the_others_fail(
    start_gateway: StartGateway, stand_ins: list[Upstream], behave: Behaviour, variant: str
) -> None:
    first, *others = stand_ins
    first.behave = be_busy
    for rig in others:
        rig.behave = behave
    # None is left out for what it did to the one before: so the busy one is asked first and last.
    forget = {"fail_timeout=5s": "fail_timeout=0"}
    gateway = start_gateway(variant, rigs=ports(stand_ins), instead=forget)
    assert [ask(gateway).status_code for _ in range(16)] == [200] * 16


def know_another_model(connection: Connection, _: Request) -> None:
    connection.answer("404 Not Found\r\nX-HeartCode-Error: model_not_found", b"{}")


@pytest.mark.parametrize("behave", [say_yes, be_busy])
def test_a_model_is_asked_for_where_it_still_is(
    start_gateway: StartGateway, stand_ins: list[Upstream], behave: Behaviour
) -> None:
    """As in an update that gives it another name, rig by rig."""
    having, *others = stand_ins
    having.behave = behave
    for rig in others:
        rig.behave = know_another_model
    gateway = start_gateway("four_rigs", rigs=ports(stand_ins))
    assert [ask(gateway).status_code for _ in range(16)] == [200] * 16
    asked = sum(len(rig.requests) for rig in others)
    assert asked > len(others), "not to know a model is no failure: nobody is left out for it"


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (know_another_model, (404, "model_not_found")),
        (be_full, (429, "queue_full")),
        (reset_at_once, (503, "rig_unavailable")),
    ],
)
def test_a_model_is_unknown_where_no_rig_can_have_it(
    start_gateway: StartGateway,
    stand_ins: list[Upstream],
    one: Behaviour,
    expected: tuple[int, str],
) -> None:
    first, *others = stand_ins
    first.behave = one
    for rig in others:
        rig.behave = know_another_model
    gateway = start_gateway("four_rigs", rigs=ports(stand_ins))
    answers = [ask(gateway) for _ in range(8)]
    assert {(each.status_code, error_of(each)["code"]) for each in answers} == {expected}


def test_a_rig_that_says_nothing_has_had_the_request_s_time(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    over = threading.Event()

    def say_nothing(_connection: Connection, _request: Request) -> None:
        over.wait(60)

    for rig in stand_ins:
        rig.behave = say_nothing
    gateway = start_gateway(
        "four_rigs",
        rigs=ports(stand_ins),
        instead={
            "proxy_read_timeout 1860s": "proxy_read_timeout 1s",
            "proxy_next_upstream_timeout 1859s": "proxy_next_upstream_timeout 500ms",
        },
    )
    answer = ask(gateway)
    over.set()
    assert (answer.status_code, error_of(answer)["code"]) == (504, "rig_timeout")
    assert sum(len(rig.requests) for rig in stand_ins) == 1, "another would take as long"


def test_nginx_waits_for_longer_than_a_rig_may_take(rendered: Variants) -> None:
    """A whole answer is silence until its end: so no rig is ever taken for dead because of one."""
    (default,) = (one.default for one in TABLE if one.field == "request_timeout_s")
    (waits,) = re.findall(
        r"^    proxy_read_timeout (\d+)s;", rendered.site("default"), re.MULTILINE
    )
    assert int(waits) > int(default or 0) > 0
    assert f"proxy_next_upstream_timeout {int(waits) - 1}s;" in rendered.site("default")
