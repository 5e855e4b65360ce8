"""Bodies of every size and shape: what comes through, and who reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.gateway.clients import CHAT, connect, error_of
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import Gateway
from tests.gateway.rigs import Rig, ports
from tests.gateway.variants import SECRETS
from tests.integration.misbehaving import Upstream
from tools.bench.bodies import KINDS, NO_JSON

LIMIT = 10 * 1024 * 1024


def post(gateway: Gateway, path: str, body: Any, who: str = "") -> requests.Response:
    key = {"Authorization": f"Bearer {SECRETS[who]}"} if who else gateway.authorization
    headers = key | {"Content-Type": "application/json"}
    return requests.post(gateway.url + path, data=body, headers=headers, timeout=120)


def in_pieces(body: bytes, size: int) -> Iterator[bytes]:
    """Yield it for requests to send each piece as a chunk."""
    for start in range(0, len(body), size):
        yield body[start : start + size]


def filled(size: int) -> bytes:
    begin, end = b'{"model": "counting", "prompt": "', b'"}'
    return begin + b"x" * (size - len(begin) - len(end)) + end


@pytest.mark.parametrize("piece", [0, 64 * 1024, 100])
def test_a_body_may_be_as_large_as_the_limit_in_chunks_as_well(
    start_gateway: StartGateway, stand_ins: list[Upstream], piece: int
) -> None:
    gateway = start_gateway(rigs=ports(stand_ins))

    def sent(size: int) -> requests.Response:
        body = filled(size)
        return post(gateway, "/v1/completions", in_pieces(body, piece) if piece else body)

    assert sent(LIMIT).status_code == 200
    (asked,) = [request for rig in stand_ins for request in rig.requests]
    assert asked.body == filled(LIMIT)
    beyond = sent(LIMIT + 1)
    assert (beyond.status_code, error_of(beyond)["code"]) == (413, "request_too_large")


def test_chunks_may_be_as_small_as_they_can_be(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    """Their frames are many times the limit, and more than what nginx keeps in memory."""
    gateway = start_gateway(
        rigs=ports(stand_ins),
        instead={
            "client_max_body_size 10m": "client_max_body_size 20k",
            "client_body_buffer_size 20m": "client_body_buffer_size 40k",
        },
    )
    body = filled(20 * 1024)
    assert post(gateway, "/v1/completions", in_pieces(body, 1)).status_code == 200
    (asked,) = [request for rig in stand_ins for request in rig.requests]
    assert asked.body == body


def test_a_stranger_s_body_is_not_waited_for(start_gateway: StartGateway) -> None:
    """Whoever asks for /health without a key leaves nothing behind."""
    gateway = start_gateway()
    for method in ("POST", "GET"):
        with connect(gateway) as connection:
            head = f"{method} /health HTTP/1.1\r\nHost: a\r\nContent-Length: {LIMIT}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.makefile("rb").readline().split()[1] == b"413"
        with connect(gateway) as connection:
            head = f"{method} /health HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode() + b"800\r\n" + b"x" * 0x800 + b"\r\n")
            status = connection.makefile("rb").readline().split()[1]
            assert status == (b"405" if method == "POST" else b"413")


def test_the_end_of_a_c_string_ends_a_body(start_gateway: StartGateway, rigs: list[Rig]) -> None:
    gateway = start_gateway(rigs=ports(rigs))
    body = b'{"messages":[{"role":"user","content":"Count!"}],"max_tokens":4}'
    assert post(gateway, CHAT, body + b"\0").status_code == 200
    # Within a string it is as wrong as everywhere, and what llama-server refuses is refused.
    refused = post(gateway, CHAT, body.replace(b"Count", b"Co\0nt"))
    assert (refused.status_code, error_of(refused)["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("kind", KINDS)
def test_every_body_gets_an_answer(start_gateway: StartGateway, rigs: list[Rig], kind: str) -> None:
    """Of a model that does not exist, whether the gateway or a rig finds that out; or no JSON."""
    gateway = start_gateway("clients", rigs=ports(rigs))
    body = KINDS[kind](100_000).encode()
    answer = post(gateway, "/v1/chat/completions", body, who="emil")
    code = error_of(answer)["code"]
    if kind in NO_JSON:
        assert code == "invalid_json"
    elif b'"bench"' in body or b"abc" in body:
        assert (answer.status_code, code) == (404, "model_not_found")
    else:
        assert answer.status_code == 400


def dense(**fields: Any) -> bytes:
    """Return a body that the gateway cannot afford to read to its end, where `fields` stand."""
    return json.dumps({f"x{n}": 1 for n in range(9000)} | fields).encode()


def test_what_a_body_asks_for_is_found_by_a_rig_where_the_gateway_cannot(
    start_gateway: StartGateway, rigs: list[Rig]
) -> None:
    gateway = start_gateway("clients", rigs=ports(rigs))

    def asked(who: str, **fields: Any) -> requests.Response:
        return post(gateway, "/tokenize", dense(content="1 2", **fields), who=who)

    assert asked("emil", model="counting").json()["tokens"]
    assert asked("emil").json()["tokens"], "the default model"
    unknown = asked("emil", model="nobody's")
    assert (unknown.status_code, error_of(unknown)["param"]) == (404, "model")
    forbidden = asked("dora", model="counting")
    assert (forbidden.status_code, error_of(forbidden)["code"]) == (403, "model_not_allowed")
    broken = post(gateway, "/tokenize", dense(content="1 2")[:-1] + b",}", who="emil")
    assert (broken.status_code, error_of(broken)["code"]) == (400, "invalid_json")


def test_a_cache_key_is_found_there_too(start_gateway: StartGateway, rigs: list[Rig]) -> None:
    gateway = start_gateway("clients", rigs=ports(rigs))

    def rig_of(number: int, body: bytes) -> str:
        identity = f"cache-key-{number}-{len(body)}"
        key = {"Authorization": f"Bearer {SECRETS['emil']}", "X-Request-Id": identity}
        requests.post(f"{gateway.url}/v1/embeddings", data=body, headers=key, timeout=60)
        rig = gateway.log_line(identity)["rig"]
        return str(rig.split(" : ")[-1].split(", ")[-1])

    for number in range(6):
        fields = {"input": f"another {number}", "prompt_cache_key": f"k{number}"}
        small = json.dumps({"model": "counting"} | fields).encode()
        assert rig_of(number, small) == rig_of(number, dense(model="counting", **fields))
