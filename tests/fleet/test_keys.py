"""Who may ask the gateway, how much at a time, and what everybody else is told."""

import socket
import stat
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fleet.counting import chat, count_to, events, text_of
from tests.fleet.harness import GATEWAY_PORT, Fleet, log_line, proxy_lines, wait_for

MODELS, CHAT = "/v1/models", "/v1/chat/completions"
#: A key for each client, new with each run.
SECRETS = {name: f"{name}-{uuid.uuid4().hex}" for name in ("anna", "bea", "cora", "dora", "emil")}


def clients(fleet: Fleet, *without: str) -> list[dict[str, Any]]:
    """Keys for all cases; the one that the fleet's other tests use stays."""
    every: list[dict[str, Any]] = [
        {"name": "default", "key": fleet.key},
        {"name": "anna", "key": SECRETS["anna"], "requests_per_minute": 2},
        {"name": "bea", "key": SECRETS["bea"], "parallel": 1, "expires": "2999-12-31"},
        {"name": "cora", "key": SECRETS["cora"], "expires": "2026-01-31"},
        {"name": "dora", "key": SECRETS["dora"], "models": ["second"]},
        {"name": "emil", "key": SECRETS["emil"]},
    ]
    return [entry for entry in every if entry["name"] not in without]


def upstreams(fleet: Fleet) -> list[dict[str, Any]]:
    """The rigs as they are, and a second model that one of them is said to serve."""
    second = {"names": ["second", "2nd"]}
    return [
        {
            "address": f"{fleet.addresses[rig]}:8080",
            "models": [{"names": ["counting"], "slots": 4}, *([second] if rig == "rig1" else [])],
        }
        for rig in fleet.rigs
    ]


@pytest.fixture(scope="module")
def said(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What Ansible said when it set up a gateway with these clients."""
    directory = tmp_path_factory.mktemp("keys")
    yield fleet.set_up_gateway(
        directory, gateway_api_keys=clients(fleet), gateway_upstreams=upstreams(fleet)
    )
    told = " ".join(fleet.set_up_gateway(directory).split())
    assert f"one API key lies in {fleet.directory}/gateway.key" in told
    assert fleet.key not in told


pytestmark = pytest.mark.usefixtures("said")


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}"}


def get(fleet: Fleet, path: str, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.get(fleet.url + path, headers=headers or {}, timeout=30)


def door(fleet: Fleet) -> tuple[str, int]:
    return fleet.addresses["gateway"], GATEWAY_PORT


def error_of(answer: requests.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-Id"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@contextmanager
def rigs_at_rest(fleet: Fleet) -> Iterator[None]:
    """No token comes meanwhile, and nobody takes that for a hang."""
    env, unit = "/etc/heartcode/heartcode.env", "heartcode.service"
    patience = r"HEARTCODE_SUSPECT_S=600\nHEARTCODE_TOKEN_SILENCE_TIMEOUT_S=600"
    signal = "systemctl kill --signal={} 'heartcode-llama@*.service'"
    with ExitStack() as undo:
        for rig in fleet.rigs:
            undo.callback(fleet.ssh, rig, f"mv {env}.kept {env} && systemctl reload {unit}")
            change = f"cp -a {env} {env}.kept && printf '{patience}\\n' >>{env}"
            fleet.ssh(rig, f"{change} && systemctl reload {unit}")
        for rig in fleet.rigs:
            undo.callback(fleet.ssh, rig, signal.format("CONT"))
            fleet.ssh(rig, signal.format("STOP"))
        yield


def test_no_key_is_told_and_none_is_on_a_disk(fleet: Fleet, said: str) -> None:
    secrets = [*SECRETS.values(), fleet.key]
    assert [secret for secret in secrets if secret in said] == []
    patterns = " ".join(f"-e {secret}" for secret in secrets)
    places = "/etc/nginx /etc/heartcode /var/log /root /tmp /var/tmp"
    assert fleet.ssh("gateway", f"grep -rlsF {patterns} {places}", check=False) == ""
    hashes = fleet.ssh("gateway", "stat -c '%a %U' /etc/nginx/heartcode/*/clients.js")
    assert hashes == "600 root"


def test_the_key_that_was_made_is_for_its_owner_alone(fleet: Fleet) -> None:
    mode = (fleet.directory / "gateway.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {}"},
        {"Authorization": "bearer {}"},
        {"x-api-key": "{}"},
        {"Authorization": "Bearer ", "x-api-key": "{}"},
    ],
)
def test_a_key_opens_the_gateway(fleet: Fleet, headers: dict[str, str]) -> None:
    sent = {name: value.format(SECRETS["emil"]) for name, value in headers.items()}
    assert get(fleet, MODELS, sent).status_code == 200
    sent["Authorization"] = sent.get("Authorization", "")
    assert chat(fleet, max_tokens=1, headers=sent).status_code == 200


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "An API key is needed: send it in the header"),
        ({"Authorization": "Bearer "}, "An API key is needed"),
        ({"Authorization": f"Bearer {uuid.uuid4()}"}, "This API key is not valid here."),
        ({"x-api-key": "x" * 7000}, "This API key is not valid here."),
        ({"x-api-key": "\x01\x7f"}, "This API key is not valid here."),
        ({"x-api-key": "ü"}, "This API key is not valid here."),
        ({"x-api-key": SECRETS["cora"]}, "This API key expired on 2026-01-31."),
    ],
)
def test_without_a_valid_key_it_stays_closed(
    fleet: Fleet, headers: dict[str, str], message: str
) -> None:
    sent = {name: value.encode() for name, value in headers.items()}
    answer = requests.post(fleet.url + CHAT, data="{", headers=sent, timeout=30)
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
def test_only_the_health_and_the_page_are_open(fleet: Fleet, path: str, status: int) -> None:
    request = requests.Request("GET", fleet.url).prepare()
    request.url = fleet.url + path  # as it stands, not as a browser would tidy it
    with requests.Session() as session:
        assert session.send(request, timeout=30).status_code == status


def test_a_key_twice_is_no_key(fleet: Fleet) -> None:
    for name, value in (("x-api-key", "{}"), ("Authorization", "Bearer {}")):
        line = f"{name}: {value.format(SECRETS['emil'])}\r\n"
        with socket.create_connection(door(fleet), timeout=10) as connection:
            connection.sendall(f"GET {MODELS} HTTP/1.0\r\nHost: a\r\n{line}{line}\r\n".encode())
            status = connection.makefile("rb").readline().split()[1]
        assert status in (b"400", b"401")


def test_a_large_body_of_a_stranger_is_refused_unread(fleet: Fleet) -> None:
    with socket.create_connection(door(fleet), timeout=10) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.makefile("rb").readline().split()[1] == b"401"


def test_a_client_sees_and_uses_its_models_alone(fleet: Fleet) -> None:
    dora = key("dora")
    (model,) = get(fleet, MODELS, dora).json()["data"]
    assert model["id"] == "second"
    assert get(fleet, f"{MODELS}/2nd", dora).json() == model
    everybody_s = get(fleet, MODELS, key("emil")).json()["data"]
    assert [one["id"] for one in everybody_s] == ["counting", "second"]
    for answer in (
        chat(fleet, max_tokens=1, model="counting", headers=dora),
        get(fleet, f"{MODELS}/counting", dora),
        get(fleet, "/props?model=counting", dora),
    ):
        assert answer.status_code == 403
        error = error_of(answer)
        assert (error["code"], error["param"]) == ("model_not_allowed", "model")
    identity = f"keys-{uuid.uuid4()}"
    chat(fleet, max_tokens=1, headers=dora | {"X-Request-Id": identity})
    assert log_line(fleet, identity)["model"] == "second", "without a name its own is meant"


def test_a_client_has_its_rate(fleet: Fleet) -> None:
    def ask() -> requests.Response:
        return chat(fleet, max_tokens=1, headers=key("anna"))

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
        f"{fleet.url}/tokenize", json={"content": "1 2 3"}, headers=key("anna"), timeout=30
    )
    assert counted.status_code == 200
    assert chat(fleet, max_tokens=1, headers=key("emil")).status_code == 200


def test_a_client_has_so_many_requests_at_a_time(fleet: Fleet) -> None:
    def ask() -> requests.Response:
        return chat(fleet, max_tokens=1, headers=key("bea"))

    with socket.create_connection(door(fleet), timeout=10) as connection:
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
    wait_for(lambda: ask().status_code == 200, "its place is free")


def test_the_client_s_name_reaches_logs_and_metrics(fleet: Fleet) -> None:
    identity = f"keys-{uuid.uuid4()}"
    headers = key("emil") | {"X-Request-Id": identity, "X-HeartCode-Client": "somebody"}
    assert chat(fleet, max_tokens=7, headers=headers).status_code == 200
    line = log_line(fleet, identity)
    assert line["client"] == "emil"
    assert line["address"] not in ("", "emil")
    assert {one["client"] for one in proxy_lines(fleet, identity)} == {"emil"}
    metrics = "".join(
        requests.get(f"http://{fleet.addresses[rig]}:9091/metrics", timeout=10).text
        for rig in fleet.rigs
    )
    assert 'inference_client_tokens_total{client="emil",kind="completion"}' in metrics
    assert "somebody" not in metrics


def test_who_tries_keys_is_slowed_down_and_others_are_not(fleet: Fleet) -> None:
    def guess() -> requests.Response:
        return get(fleet, MODELS, {"x-api-key": uuid.uuid4().hex})

    answer = next(answer for _ in range(200) if (answer := guess()).status_code != 401)
    assert answer.status_code == 429
    assert "without a valid API key" in error_of(answer)["message"]
    assert int(answer.headers["Retry-After"]) > 0
    # The same address with a key.
    assert get(fleet, MODELS, key("emil")).status_code == 200


def test_who_dawdles_is_hung_up_on_and_hinders_nobody(fleet: Fleet) -> None:
    """20 requests that never end and 500 connections without a word."""
    with ExitStack() as opened:
        idle = [
            opened.enter_context(socket.create_connection(door(fleet), timeout=60))
            for _ in range(520)
        ]
        slow = idle[:20]
        for connection in slow:
            connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        assert chat(fleet, max_tokens=5).status_code == 200
        for connection in slow:  # nginx waits for the rest of a head for 15 s
            assert connection.recv(1000) == b""
        assert chat(fleet, max_tokens=5).status_code == 200


@pytest.mark.usefixtures("disturbs")
def test_a_revoked_key_ends_nothing_that_runs(fleet: Fleet, tmp_path: Path, said: str) -> None:
    assert said
    with ExitStack() as running:
        with rigs_at_rest(fleet):
            stream = running.enter_context(
                chat(fleet, max_tokens=50, stream=True, headers=key("emil"))
            )
            fleet.set_up_gateway(
                tmp_path,
                gateway_api_keys=clients(fleet, "emil"),
                gateway_upstreams=upstreams(fleet),
            )
            wait_for(
                lambda: get(fleet, MODELS, key("emil")).status_code == 401, "the key is revoked"
            )
            assert get(fleet, MODELS, fleet.authorization).status_code == 200
        assert "".join(map(text_of, events(stream))).split() == count_to(50)


def test_behind_a_wall_of_its_own_the_gateway_asks_nobody(
    fleet: Fleet, tmp_path: Path, said: str
) -> None:
    assert said
    fleet.set_up_gateway(tmp_path, gateway_auth="none")
    identity = f"keys-{uuid.uuid4()}"
    headers = {"X-Request-Id": identity}
    wait_for(lambda: get(fleet, MODELS).status_code == 200, "no key is needed")
    body = {"messages": [{"role": "user", "content": "Count!"}], "max_tokens": 1}
    answer = requests.post(fleet.url + CHAT, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200
    line = log_line(fleet, identity)
    assert line["client"] == line["address"] != ""
