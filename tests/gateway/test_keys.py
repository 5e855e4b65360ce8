"""Who may ask the gateway, how much at a time, and what everybody else is told."""

from __future__ import annotations

import uuid
from contextlib import ExitStack

import pytest
import requests

from tests.counting import chat
from tests.gateway.clients import CHAT, MODELS, connect, error_of, get, get_as_it_stands
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import Gateway
from tests.gateway.rigs import Rig, ports
from tests.gateway.variants import SECRETS
from tests.integration.misbehaving import Upstream
from tests.integration.processes import wait_until


@pytest.fixture
def gateway(start_gateway: StartGateway, stand_ins: list[Upstream]) -> Gateway:
    return start_gateway("clients", rigs=ports(stand_ins))


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}"}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"Authorization": "bearer {}"},
        {"x-api-key": "{}"},
        {"Authorization": "Bearer ", "x-api-key": "{}"},
    ],
)
def test_a_key_opens_the_gateway_and_goes_no_further(
    gateway: Gateway, stand_ins: list[Upstream], headers: dict[str, str]
) -> None:
    sent = {name: value.format(SECRETS["emil"]) for name, value in headers.items()}
    assert get(gateway, MODELS, **sent).status_code == 200
    sent["Authorization"] = sent.get("Authorization", "")
    assert chat(gateway, max_tokens=1, headers=sent).status_code == 200
    (asked,) = (request for rig in stand_ins for request in rig.requests)
    assert asked.headers["x-heartcode-client"] == "emil"
    assert not {"authorization", "x-api-key"} & asked.headers.keys()


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "An API key is needed: send it in the header"),
        ({"Authorization": "Bearer "}, "An API key is needed"),
        ({"Authorization": "Bearer of-nobody-at-all-here"}, "This API key is not valid here."),
        ({"x-api-key": "x" * 7000}, "This API key is not valid here."),
        ({"x-api-key": "\x01\x7f"}, "This API key is not valid here."),
        ({"x-api-key": "ü"}, "This API key is not valid here."),
        ({"x-api-key": SECRETS["cora"]}, "This API key expired on 2026-01-31."),
    ],
)
def test_without_a_valid_key_it_stays_closed(
    gateway: Gateway, headers: dict[str, str], message: str
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    answer = requests.post(gateway.url + CHAT, data="{", headers=sent, timeout=30)
    assert answer.status_code == 401
    error = error_of(answer)
    assert error["code"] == "invalid_api_key"
    assert error["message"].startswith(message)
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/health", 200),
        ("/livez", 200),
        ("/", 200),
        (MODELS, 401),
        ("/slots", 401),
        ("/props", 401),
        ("/nowhere", 401),
        ("//health/../slots", 401),
        ("/health/../slots", 401),
        ("/.heartcode/503", 404),
        ("/.heartcode/../slots", 401),
    ],
)
def test_only_the_health_and_the_page_are_open(gateway: Gateway, path: str, status: int) -> None:
    assert get_as_it_stands(gateway, path).status_code == status


@pytest.mark.parametrize(("name", "value"), [("x-api-key", "{}"), ("Authorization", "Bearer {}")])
def test_a_key_twice_is_no_key(gateway: Gateway, name: str, value: str) -> None:
    line = f"{name}: {value.format(SECRETS['emil'])}\r\n"
    with connect(gateway) as connection:
        connection.sendall(f"GET {MODELS} HTTP/1.0\r\nHost: a\r\n{line}{line}\r\n".encode())
        status = connection.makefile("rb").readline().split()[1]
    assert status in (b"400", b"401")


def test_a_large_body_of_a_stranger_is_refused_unread(gateway: Gateway) -> None:
    with connect(gateway) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.makefile("rb").readline().split()[1] == b"401"


def test_a_client_sees_and_uses_its_models_alone(
    gateway: Gateway, stand_ins: list[Upstream]
) -> None:
    dora = key("dora")
    (model,) = get(gateway, MODELS, **dora).json()["data"]
    assert model["id"] == "second"
    assert get(gateway, f"{MODELS}/2nd", **dora).json() == model
    everybody_s = get(gateway, MODELS, **key("emil")).json()["data"]
    assert [one["id"] for one in everybody_s] == ["counting", "second"]
    for answer in (
        chat(gateway, max_tokens=1, model="counting", headers=dora),
        get(gateway, f"{MODELS}/counting", **dora),
        get(gateway, "/props?model=counting", **dora),
    ):
        assert answer.status_code == 403
        error = error_of(answer)
        assert (error["code"], error["param"]) == ("model_not_allowed", "model")
    assert not any(rig.requests for rig in stand_ins)
    chat(gateway, max_tokens=1, headers=dora | {"X-Request-Id": "keys-dora"})
    line = gateway.log_line("keys-dora")
    assert line["model"] == "second", "without a name its own is meant"
    (asked,) = stand_ins[0].requests  # the one rig that serves it
    assert asked.headers["x-heartcode-model"] == "second"


def test_a_client_has_its_rate(gateway: Gateway) -> None:
    def ask() -> requests.Response:
        return chat(gateway, max_tokens=1, headers=key("anna"))

    assert [ask().status_code for _ in range(2)] == [200, 200]
    # Where half a minute has passed meanwhile, there was room for one more.
    answer = next(answer for _ in range(3) if (answer := ask()).status_code != 200)
    assert answer.status_code == 429
    error = error_of(answer)
    assert error["code"] == "rate_limit_exceeded"
    assert "this API key may make 2 requests per minute" in error["message"]
    assert answer.headers["Retry-After"] == "30"
    # What takes no slot does not count, and nor do other clients.
    counted = requests.post(
        f"{gateway.url}/tokenize", json={"content": "1 2 3"}, headers=key("anna"), timeout=30
    )
    assert counted.status_code == 200
    assert chat(gateway, max_tokens=1, headers=key("emil")).status_code == 200


def test_a_client_has_so_many_requests_at_a_time(gateway: Gateway) -> None:
    def ask() -> requests.Response:
        return chat(gateway, max_tokens=1, headers=key("bea"))

    with connect(gateway) as connection:
        # It counts from its head on, and it lasts as long as the rest of it is awaited. nginx asks
        # for that rest after it has counted: another one sent before could get the place first.
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\nExpect: 100-continue\r\n"
            f"x-api-key: {SECRETS['bea']}"
        )
        connection.sendall(f"{head}\r\n\r\n".encode())
        assert connection.makefile("rb").readline().split()[1] == b"100"
        answer = ask()
        assert answer.status_code == 429
        assert error_of(answer)["code"] == "rate_limit_exceeded"
        assert "1 requests with this API key are being worked on" in answer.text
        assert int(answer.headers["Retry-After"]) > 0
    wait_until(lambda: ask().status_code == 200, "its place is free")


def test_the_client_s_name_reaches_logs_and_metrics(
    start_gateway: StartGateway, rigs: list[Rig]
) -> None:
    gateway, identity = start_gateway("clients", rigs=ports(rigs)), f"keys-{uuid.uuid4()}"
    headers = key("emil") | {"X-Request-Id": identity, "X-HeartCode-Client": "somebody"}
    assert chat(gateway, max_tokens=7, headers=headers).status_code == 200
    line = gateway.log_line(identity)
    assert (line["client"], line["address"]) == ("emil", "127.0.0.1")
    (rig,) = (rig for rig in rigs if line["rig"] == f"127.0.0.1:{rig.port}")
    assert rig.proxy.log_line(identity)["client"] == "emil"
    tokens = rig.exporter.value("inference_client_tokens_total", client="emil", kind="completion")
    assert tokens > 0
    for each in rigs:
        assert "somebody" not in requests.get(each.exporter.url, timeout=30).text


def test_who_tries_keys_is_slowed_down_and_others_are_not(gateway: Gateway) -> None:
    def guess(n: int) -> requests.Response:
        return get(gateway, MODELS, **{"x-api-key": f"guess-{n:020}"})

    answer = next(answer for n in range(200) if (answer := guess(n)).status_code != 401)
    assert answer.status_code == 429
    assert "without a valid API key" in error_of(answer)["message"]
    assert int(answer.headers["Retry-After"]) > 0
    # The same address with a key.
    assert get(gateway, MODELS, **key("emil")).status_code == 200


def test_who_dawdles_is_hung_up_on_and_hinders_nobody(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    """20 requests that never end and 500 connections without a word."""
    sooner = {"client_header_timeout 15s;": "client_header_timeout 3s;"}
    gateway = start_gateway("clients", rigs=ports(stand_ins), instead=sooner)
    with ExitStack() as opened:
        idle = [opened.enter_context(connect(gateway, 60)) for _ in range(520)]
        slow = idle[:20]
        for connection in slow:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        assert chat(gateway, max_tokens=5).status_code == 200
        for connection in slow:  # nginx waits so long for the rest of a head
            assert connection.recv(1000) == b""
        assert chat(gateway, max_tokens=5).status_code == 200


def test_behind_a_wall_of_its_own_the_gateway_asks_nobody(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    gateway, identity = start_gateway("open", rigs=ports(stand_ins)), f"keys-{uuid.uuid4()}"
    assert get(gateway, MODELS).status_code == 200
    body = {"messages": [{"role": "user", "content": "Count!"}], "max_tokens": 1}
    headers = {"X-Request-Id": identity}
    answer = requests.post(gateway.url + CHAT, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200
    line = gateway.log_line(identity)
    assert line["client"] == line["address"] == "127.0.0.1"
    (asked,) = (request for rig in stand_ins for request in rig.requests)
    assert asked.headers["x-heartcode-client"] == "127.0.0.1"
