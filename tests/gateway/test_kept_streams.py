"""Streams that outlive their rig, from the client through nginx and the gateway's relay."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import requests

from tests.counting import chat, count_to, events, text_of
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import NOWHERE
from tests.gateway.rigs import Rig, ports, proxy_of, say_yes
from tests.integration.misbehaving import Upstream


def words(response: requests.Response) -> list[str]:
    return "".join(map(text_of, events(response))).split()


def test_a_stream_outlives_its_rig(
    start_gateway: StartGateway, rigs: list[Rig], tmp_path: Path
) -> None:
    proxies = [proxy_of(tmp_path / rig.name, rig.llama) for rig in rigs]
    gateway = start_gateway("keeps_streams", rigs=[proxy.port for proxy in proxies])
    identity = "outlives"
    with chat(
        gateway,
        max_tokens=2000,
        stream=True,
        headers=gateway.authorization | {"X-Request-Id": identity},
    ) as response:
        told = events(response)
        text = "".join(text_of(next(told)) for _ in range(10))
        (dying,) = (p for p, rig in zip(proxies, rigs, strict=True) if rig.llama.is_generating())
        for pid in (dying.process.pid, *dying.workers()):
            os.kill(pid, signal.SIGKILL)
        text += "".join(map(text_of, told))
    for proxy in proxies:
        proxy.kill()
    assert text.split() == count_to(2000)
    line = gateway.log_line(identity)
    assert (line["status"], line["rig"]) == (200, f"127.0.0.1:{dying.port}")


def test_the_relay_passes_on_what_rigs_say(start_gateway: StartGateway, rigs: list[Rig]) -> None:
    gateway = start_gateway("keeps_streams", rigs=ports(rigs))
    refused = chat(gateway, max_tokens=-7)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "max_tokens"
    assert chat(gateway, max_tokens=3).json()["usage"]["completion_tokens"] == 3
    with rigs[0].draining(), rigs[1].draining():
        drained = chat(gateway, max_tokens=3)
        assert (drained.status_code, drained.json()["error"]["code"]) == (503, "draining")
        assert drained.headers["Retry-After"] == "5"


def test_without_its_relay_a_gateway_asks_the_rigs_itself(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    gateway = start_gateway("keeps_streams", rigs=ports(stand_ins), relay=False)
    for number in range(4):  # the relay's addresses are marked as failed by then
        headers = gateway.authorization | {"X-Session-Id": f"{number}"}
        assert chat(gateway, max_tokens=1, headers=headers).status_code == 200
    assert sum(len(rig.requests) for rig in stand_ins) == 4


def test_what_the_relay_tells_rigs_no_client_can(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    own = {"X-HeartCode-Begun": "{}", "X-HeartCode-Signs": "0.1"}
    gateway = start_gateway("keeps_streams", rigs=ports(stand_ins))
    assert chat(gateway, max_tokens=1, headers=gateway.authorization | own).status_code == 200
    (relayed,) = (request for rig in stand_ins for request in rig.requests)
    assert "x-heartcode-begun" not in relayed.headers
    assert relayed.headers["x-heartcode-signs"] == "1"


def test_nor_can_a_client_of_a_gateway_without_one(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    own = {"X-HeartCode-Begun": "{}", "X-HeartCode-Signs": "0.1"}
    gateway = start_gateway("keeps_streams", rigs=ports(stand_ins), relay=False)
    assert chat(gateway, max_tokens=1, headers=gateway.authorization | own).status_code == 200
    (request,) = (request for rig in stand_ins for request in rig.requests)
    assert not {"x-heartcode-begun", "x-heartcode-signs"} & request.headers.keys()


def test_a_rig_that_does_not_answer_is_passed_over(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    gateway = start_gateway("keeps_streams", rigs=[NOWHERE, stand_ins[1].port])
    stand_ins[1].behave = say_yes
    for number in range(4):
        headers = gateway.authorization | {"X-Session-Id": f"{number}"}
        assert chat(gateway, max_tokens=1, headers=headers).status_code == 200


def test_where_no_rig_is_there_the_relay_is_not_to_blame(start_gateway: StartGateway) -> None:
    answer = chat(start_gateway("keeps_streams"), max_tokens=1)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "rig_unavailable")
