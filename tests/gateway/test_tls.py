"""The gateway with TLS, and for web pages of other origins."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.counting import count_to, text_of
from tests.gateway.clients import CHAT, MODELS, error_of, get
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import HOST, Gateway
from tests.gateway.rigs import Rig, ports
from tests.gateway.variants import ORIGIN
from tests.integration.misbehaving import Upstream

Ask = Callable[..., requests.Response]


@pytest.fixture
def gateway(start_gateway: StartGateway, stand_ins: list[Upstream]) -> Gateway:
    return start_gateway("tls", rigs=ports(stand_ins))


@pytest.mark.parametrize("door", ["port", "tls_port"])
def test_both_ports_speak_tls(gateway: Gateway, certificate: Path, door: str) -> None:
    url = f"https://{HOST}:{getattr(gateway, door)}/health"
    answer = requests.get(url, verify=str(certificate), timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"


def test_who_comes_without_is_told(gateway: Gateway) -> None:
    answer = get(gateway, MODELS, **gateway.authorization)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "https_required"


def test_a_stream_over_http_2_counts(
    start_gateway: StartGateway, rigs: list[Rig], certificate: Path, tmp_path: Path
) -> None:
    gateway, headers = start_gateway("tls", rigs=ports(rigs)), tmp_path / "headers"
    headers.write_text(f"Authorization: Bearer {gateway.key}\nContent-Type: application/json\n")
    body = {
        "messages": [{"role": "user", "content": "Count!"}],
        "max_tokens": 300,
        "stream": True,
    }
    url = f"https://{HOST}:{gateway.tls_port}{CHAT}"
    done = subprocess.run(
        [
            *("curl", "-sS", "-N", "--http2", "--cacert", certificate, "-H", f"@{headers}"),
            *("-w", "%{http_version}", "-d", json.dumps(body), url),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, version = done.stdout.splitlines()
    assert version == "2"
    told: list[dict[str, Any]] = [
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")
    ]
    assert "".join(map(text_of, told)).split() == count_to(300)
    assert "data: [DONE]" in lines


@pytest.mark.parametrize(
    ("version", "is_spoken"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)]
)
def test_old_versions_are_not_spoken(gateway: Gateway, version: str, *, is_spoken: bool) -> None:
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"{HOST}:{gateway.tls_port}", version],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ("Cipher is (NONE)" not in done.stdout) == is_spoken, done.stdout


@pytest.fixture
def answers_to(gateway: Gateway, certificate: Path) -> Ask:
    def ask(method: str, path: str, origin: str, **fields: Any) -> requests.Response:
        headers = {"Origin": origin} | fields.pop("headers", {})
        url = f"https://{HOST}:{gateway.tls_port}{path}"
        return requests.request(
            method, url, headers=headers, verify=str(certificate), timeout=30, **fields
        )

    return ask


def test_a_known_origin_may_ask(gateway: Gateway, answers_to: Ask) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    first = answers_to("OPTIONS", CHAT, ORIGIN, headers=asked)
    assert (first.status_code, first.content) == (204, b"")
    assert first.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "POST" in first.headers["Access-Control-Allow-Methods"]
    key = gateway.authorization
    body = {"messages": [{"role": "user", "content": "Count!"}], "max_tokens": 2, "stream": True}
    answers = [
        first,
        answers_to("POST", CHAT, ORIGIN, headers=key, json=body),
        answers_to("GET", "/health", ORIGIN),
        answers_to("GET", MODELS, ORIGIN),
        answers_to("POST", CHAT, ORIGIN, headers=key, data="{"),
        answers_to("GET", "/nowhere", ORIGIN, headers=key),
    ]
    assert [answer.status_code for answer in answers] == [204, 200, 200, 401, 400, 404]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "http://chat.example.org", "null"]
)
def test_any_other_origin_may_not(answers_to: Ask, origin: str) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    first = answers_to("OPTIONS", CHAT, origin, headers=asked)
    assert first.status_code == 401
    for answer in (first, answers_to("GET", "/health", origin)):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"
