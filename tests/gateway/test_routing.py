"""Which rig the gateway gives a request to, and what it answers by itself."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from jinja2 import Template

from tests.counting import chat, count_to
from tests.gateway.clients import CHAT, MODELS, connect, error_of, get
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import ROOT, Gateway, Variants
from tests.gateway.rigs import SLOTS, Rig, ports, proxy_of, standing_still
from tests.integration.misbehaving import Upstream
from tests.integration.processes import wait_until


@pytest.fixture
def gateway(start_gateway: StartGateway, rigs: list[Rig]) -> Gateway:
    return start_gateway(rigs=ports(rigs))


@pytest.fixture
def before_stand_ins(start_gateway: StartGateway, stand_ins: list[Upstream]) -> Gateway:
    return start_gateway(rigs=ports(stand_ins))


def turns(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]


def request_id() -> str:
    return f"routing-{uuid.uuid4()}"


def asked(line: dict[str, Any]) -> list[int]:
    """The ports of the rigs that a request was brought to, the last of which has answered it."""
    return [int(rig.split(":")[1]) for rig in line["rig"].replace(" : ", ", ").split(", ")]


def served_by(gateway: Gateway, headers: dict[str, str] | None = None, **fields: Any) -> int:
    identity = request_id()
    names = {"X-Request-Id": identity, **(headers or {})}
    answer = chat(gateway, max_tokens=1, headers=names, **fields)
    assert answer.status_code == 200, answer.text
    return asked(gateway.log_line(identity))[-1]


@contextmanager
def requests_that_stay(
    gateway: Gateway, rigs: Sequence[Rig], number: int, *, session: str | None = None
) -> Iterator[None]:
    """So many requests, of one session if it is named, that keep their slots until the end."""
    headers = {"X-Session-Id": session} if session else {}
    with ThreadPoolExecutor(number) as pool, standing_still(rigs):
        sent = [
            pool.submit(
                chat,
                gateway,
                max_tokens=20,
                messages=turns(uuid.uuid4().hex),
                headers=headers,
            )
            for _ in range(number)
        ]
        wait_until(
            lambda: sum(rig.active() for rig in rigs) == number,
            f"the rigs have {number} requests",
        )
        yield
    for answer in sent:
        content = answer.result().json()["choices"][0]["message"]["content"]
        assert content.split() == count_to(20)


def test_a_conversation_stays_with_its_rig(before_stand_ins: Gateway) -> None:
    said = [f"I am {uuid.uuid4().hex}. Count!"]
    rigs = []
    for _ in range(4):
        rigs.append(served_by(before_stand_ins, messages=turns(*said)))
        said += ["1", "Go on!"]
    assert len(set(rigs)) == 1, rigs


def test_conversations_are_spread_over_the_rigs(
    before_stand_ins: Gateway, stand_ins: list[Upstream]
) -> None:
    rigs = {served_by(before_stand_ins, messages=turns(f"Conversation {n}")) for n in range(24)}
    assert rigs == {rig.port for rig in stand_ins[:2]}


def test_a_session_s_name_decides(before_stand_ins: Gateway) -> None:
    session = {"X-Session-Id": uuid.uuid4().hex}
    rigs = {
        served_by(before_stand_ins, session, messages=turns(f"Something else {n}"))
        for n in range(8)
    }
    assert len(rigs) == 1


def test_a_rig_that_is_added_takes_its_share_and_no_more(
    before_stand_ins: Gateway, stand_ins: list[Upstream], rendered: Variants
) -> None:
    gateway, number = before_stand_ins, 90

    def rigs_of_conversations() -> list[int]:
        """Which rig answers each of them; a place on the ring is a matter of the rigs' ports."""
        sessions = ({"X-Session-Id": f"conversation {n}"} for n in range(number))
        return [served_by(gateway, session, messages=turns("Count!")) for session in sessions]

    *two, third = ports(stand_ins[:3])
    before = rigs_of_conversations()
    assert set(before) == set(two)
    gateway.reload(rendered.site("third_rig"))
    after = rigs_of_conversations()
    moved = {new for old, new in zip(before, after, strict=True) if new != old}
    assert moved == {third}
    assert after.count(third) <= 2 * number / 3, "about a third of them"
    gateway.reload(rendered.site("default"))
    assert rigs_of_conversations() == before, "each is where it was"


def test_no_request_waits_while_another_rig_has_a_free_slot(
    gateway: Gateway, rigs: list[Rig]
) -> None:
    """All of one session want the same rig: what it has no slot for goes to the other."""
    whole = len(rigs) * SLOTS
    with requests_that_stay(gateway, rigs, whole, session=uuid.uuid4().hex):
        # One that was refused a moment ago may still be counted where it was.
        wait_until(
            lambda: [rig.active() for rig in rigs] == [SLOTS, SLOTS], "each has what it can hold"
        )
        # On its rig one may hold out for a better cache than the free slot's (ADR 7), for a moment.
        wait_until(lambda: sum(rig.queued() for rig in rigs) == 0, "every request has a slot")


def test_when_all_slots_are_busy_a_request_waits_and_is_served(
    gateway: Gateway, rigs: list[Rig]
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with requests_that_stay(gateway, rigs, len(rigs) * SLOTS):
            waiting = pool.submit(chat, gateway, max_tokens=3, messages=turns(uuid.uuid4().hex))
            wait_until(lambda: sum(rig.queued() for rig in rigs) == 1, "one request waits")
        answer = waiting.result()
    assert answer.json()["choices"][0]["message"]["content"].split() == count_to(3)


def test_when_all_queues_are_full_the_client_is_told_when_to_come_again(
    start_gateway: StartGateway, rigs: list[Rig], tmp_path: Path
) -> None:
    identity = request_id()
    with ExitStack() as stack, ThreadPoolExecutor(len(rigs) * SLOTS) as pool:
        # Rigs on which nobody may wait, with the same llama-servers.
        proxies = [proxy_of(tmp_path / rig.name, rig.llama, queue=0) for rig in rigs]
        for proxy in proxies:
            stack.callback(proxy.kill)
        gateway = start_gateway(rigs=[proxy.port for proxy in proxies])

        def busy() -> int:
            return sum(
                card["busy"]
                for proxy in proxies
                for rig in requests.get(f"{proxy.url}/fleet", timeout=30).json()["rigs"]
                for card in rig["backends"]
            )

        with standing_still(rigs):
            whole = [
                pool.submit(chat, gateway, max_tokens=1, messages=turns(f"I stay {n}"))
                for n in range(len(rigs) * SLOTS)
            ]
            wait_until(lambda: busy() == len(whole), "every slot is busy")
            answer = chat(gateway, max_tokens=1, headers={"X-Request-Id": identity})
        assert [sent.result().status_code for sent in whole] == [200] * len(whole)
    assert answer.status_code == 429
    assert error_of(answer)["code"] == "queue_full"
    assert int(answer.headers["Retry-After"]) > 0
    line = gateway.log_line(identity)
    assert line["rig_status"] == "403, 403 : 403, 403", (
        "each was asked for a slot and for its queue"
    )


def test_an_unknown_model_is_told_by_the_gateway(
    before_stand_ins: Gateway, stand_ins: list[Upstream]
) -> None:
    gateway, identity = before_stand_ins, request_id()
    answer = chat(gateway, max_tokens=1, model="nobody's", headers={"X-Request-Id": identity})
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert answer.headers["X-Request-Id"] == identity
    assert gateway.log_line(identity)["rig"] == ""
    assert not any(rig.requests for rig in stand_ins)


@pytest.mark.parametrize("model", [None, "", "undefined", "counting"])
def test_the_default_model_has_many_names(gateway: Gateway, model: str | None) -> None:
    assert chat(gateway, max_tokens=1, model=model).status_code == 200


@pytest.mark.parametrize("path", [MODELS, "/models"])
def test_the_models_are_those_of_the_fleet(start_gateway: StartGateway, path: str) -> None:
    gateway = start_gateway()
    listed = get(gateway, path, **gateway.authorization).json()
    (model,) = listed["data"]
    assert (listed["object"], model["id"], model["object"]) == ("list", "counting", "model")
    assert get(gateway, f"{path}/counting", **gateway.authorization).json() == model
    unknown = get(gateway, f"{path}/x", **gateway.authorization)
    assert error_of(unknown)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "fields", "expected"),
    [
        ("POST", CHAT, {"data": "{"}, (400, "invalid_json")),
        ("POST", CHAT, {"data": "[]"}, (400, "invalid_json")),
        ("POST", CHAT, {"data": ""}, (400, "invalid_json")),
        ("POST", CHAT, {"data": b"x" * (10 * 1024 * 1024 + 1)}, (413, "request_too_large")),
        ("POST", "/health", {"data": b"x"}, (405, "method_not_allowed")),
        ("POST", "/health", {"data": b"x" * 2048}, (413, "request_too_large")),
        ("GET", "/health", {"data": b"x" * 2048}, (413, "request_too_large")),
        ("GET", MODELS, {"data": b"x" * 2048}, (413, "request_too_large")),
        ("GET", "/status/data/now", {"data": b"x" * 2048}, (413, "request_too_large")),
        ("POST", CHAT, {"json": {"messages": []}}, (400, "invalid_value")),  # the rig's answer
        ("GET", CHAT, {}, (405, "method_not_allowed")),
        ("DELETE", MODELS, {}, (405, "method_not_allowed")),
        ("GET", "/nowhere", {}, (404, "not_found")),
        ("POST", "/props", {"json": {}}, (405, "method_not_allowed")),
        ("GET", "/.heartcode/503", {}, (404, "not_found")),
        ("GET", "/" + "x" * 9000, {}, (414, "request_line_too_long")),
        ("GET", "/health", {"headers": {"X-Long": "x" * 9000}}, (431, "headers_too_large")),
    ],
)
def test_errors_have_openai_s_shape(
    gateway: Gateway, method: str, path: str, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    sent = fields | {"headers": gateway.authorization | fields.get("headers", {})}
    answer = requests.request(method, gateway.url + path, timeout=30, **sent)
    assert (answer.status_code, error_of(answer)["code"]) == expected
    if answer.status_code == 405:
        assert answer.headers["Allow"]


def test_what_is_no_http_gets_json_too(start_gateway: StartGateway) -> None:
    with connect(start_gateway()) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_without_a_rig_the_gateway_says_so(gateway: Gateway, rigs: list[Rig]) -> None:
    with ExitStack() as stack:
        for rig in rigs:
            stack.enter_context(rig.draining())
        answer = chat(gateway, max_tokens=1)
        assert answer.status_code == 503
        assert error_of(answer)["code"] == "draining"
        assert int(answer.headers["Retry-After"]) > 0
        health = get(gateway, "/health")
    assert health.status_code == 503, "no rig serves"


def test_the_log_tells_a_request_s_way_and_nothing_of_its_words(
    gateway: Gateway, rigs: list[Rig]
) -> None:
    identity, secret = request_id(), uuid.uuid4().hex
    answer = requests.post(
        f"{gateway.url}/v1/completions?key={secret}",
        json={"prompt": secret, "max_tokens": 1},
        headers={"X-Request-Id": identity, **gateway.authorization},
        timeout=30,
    )
    assert answer.status_code == 200
    line = gateway.log_line(identity)
    assert (line["status"], line["model"], line["path"]) == (200, "counting", "/v1/completions")
    assert line["method"] == "POST"
    assert asked(line)[0] in ports(rigs)
    assert float(line["rig_header_s"]) <= line["duration_s"] + 0.01
    assert line["bytes_out"] > 0
    assert identity in gateway.logs
    assert secret not in gateway.logs
    assert gateway.key not in gateway.logs


def test_nginx_has_room_for_a_thousand_rigs(start_gateway: StartGateway) -> None:
    rigs = "".join(
        f"    server 10.0.{n // 250}.{n % 250 + 1}:8080 max_fails=1 fail_timeout=10s;\n"
        for n in range(1000)
    )
    variables = yaml.safe_load((ROOT / "roles/gateway/vars/main.yml").read_text())
    size = Template(variables["_gateway_zone_size"]).render(gateway_upstreams=range(1000))
    zone = "    zone heartcode_rigs "
    gateway = start_gateway(instead={f"{zone}256k;\n": f"{zone}{size};\n{rigs}"})
    assert get(gateway, MODELS, **gateway.authorization).status_code == 200


@pytest.mark.parametrize("behind", [b"\xe9", b"?x", b"?\xff"])
def test_a_line_of_the_log_is_json_whatever_a_path_has(gateway: Gateway, behind: bytes) -> None:
    identity = request_id()
    head = (
        b"GET /v1/models/no%b HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\nConnection: close\r\n\r\n"
    )
    with connect(gateway) as connection:
        connection.sendall(head % (behind, identity.encode()))
        assert connection.makefile("rb").readline().split()[1] == b"401"
    assert gateway.log_line(identity)["path"] == "/v1/models/no"
