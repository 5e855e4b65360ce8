"""The proxy's routes: every endpoint, the models, and the rig's own state."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from heartcode import __version__
from heartcode.api.routes import ENDPOINTS, LEFT_OUT, Endpoint

from tests.contracts.test_roles import load
from tests.integration.conftest import StartLlamas, StartProxy, StartUpstream
from tests.integration.misbehaving import Connection, Request, Upstream, be_loading
from tests.integration.processes import Proxy, counted_to, free_port, wait_until

PROMPTS: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "prompt": "x"}


def get(proxy: Proxy, path: str) -> requests.Response:
    return requests.get(proxy.url + path, timeout=30)


def echo_path(connection: Connection, request: Request) -> None:
    connection.answer("200 OK", json.dumps({"path": request.path}).encode())


@pytest.fixture(scope="module")
def echo(lasting_upstream: StartUpstream) -> Upstream:
    return lasting_upstream(echo_path)


@pytest.fixture(scope="module")
def echoing(lasting_proxy: StartProxy, echo: Upstream) -> Proxy:
    """A proxy before `echo`."""
    return lasting_proxy(echo.url)


@pytest.fixture(scope="module")
def alone(lasting_proxy: StartProxy) -> Proxy:
    """A proxy whose backend is away."""
    return lasting_proxy(f"http://127.0.0.1:{free_port()}")


@pytest.fixture(scope="module")
def counting(lasting_llamas: StartLlamas, lasting_proxy: StartProxy) -> Proxy:
    """A proxy before a real llama-server."""
    return lasting_proxy(lasting_llamas(1)[0].url)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda e: e.path)
def test_every_endpoint_is_relayed_under_all_its_paths(
    echoing: Proxy, echo: Upstream, endpoint: Endpoint
) -> None:
    before = len(echo.requests)
    # Two choices: for one alone, the proxy would ask for a stream of its own.
    fields = {endpoint.prompt or "content": PROMPTS.get(endpoint.prompt, "x"), "n": 2}
    body = json.dumps(fields).encode()
    for path in endpoint.paths:
        answer = requests.post(echoing.url + path, data=body, timeout=30)
        assert answer.json() == {"path": endpoint.path}
    assert [request.body for request in echo.requests[before:]] == [body] * len(endpoint.paths)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/props", 405),
        ("POST", "/slots/0?action=save", 404),
        ("POST", "/slots/0?action=erase", 404),
        ("POST", "/lora-adapters", 404),
        ("POST", "/v1/chat/completions/control", 404),
        ("GET", "/metrics", 404),
    ],
)
def test_what_changes_a_backend_for_everybody_is_refused(
    echoing: Proxy, echo: Upstream, method: str, path: str, status: int
) -> None:
    before = len(echo.requests)
    answer = requests.request(method, echoing.url + path, json={}, timeout=30)
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert echo.requests[before:] == []


def test_the_model_chooses_among_the_backends(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    # The third as the role starts it, the first under one of the names.
    names = ("rp", "lumimaid", "stheno|rp")
    first, second, third = (start_upstream(echo_path, model=name) for name in names)
    models = "stheno|rp, lumimaid, stheno|rp"
    proxy = start_proxy(first.url, second.url, third.url, HEARTCODE_MODEL=models)
    for _ in range(2):
        assert proxy.post(prompt="x", model="lumimaid").ok
    assert [len(u.requests) for u in (first, second, third)] == [0, 2, 0]
    for model in ("stheno", "rp", "", None):
        assert proxy.post(prompt="x", model=model).ok
    assert [len(u.requests) for u in (first, second, third)] == [2, 2, 2]
    assert proxy.post(prompt="x", model="other").status_code == 404


def test_a_model_whose_backend_is_away_is_not_served_by_another(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    other = start_upstream(echo_path, model="stheno")
    away = f"http://127.0.0.1:{free_port()}"
    proxy = start_proxy(other.url, away, HEARTCODE_MODEL="stheno,lumimaid")
    assert proxy.post(prompt="x", model="lumimaid").status_code == 503
    assert other.requests == []


def test_the_rig_s_state_without_anybody_s_words(
    llama_servers: StartLlamas, start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    llamas = llama_servers(2)
    loading = start_upstream(be_loading)  # it has nothing to tell yet
    proxy = start_proxy(
        *(llama.url for llama in llamas), loading.url, HEARTCODE_POLICY="round_robin"
    )
    prompt = " 40 41 42"
    for _ in range(2):
        answer = proxy.post("/completion", prompt=prompt, n_predict=3, stop=["secret stop"])
        assert answer.json()["content"] == " 43 44 45"

    slots = get(proxy, "/slots")
    assert [slot["backend"] for slot in slots.json()] == [
        llama.url.removeprefix("http://") for llama in llamas for _ in range(2)
    ]
    used = [slot for slot in slots.json() if "next_token" in slot]
    assert len(used) == 2
    assert used[0]["is_processing"] is False
    assert used[0]["next_token"][0]["has_next_token"] is False
    assert "secret" not in slots.text
    assert " 43" not in slots.text

    props, own = get(proxy, "/props").json(), requests.get(f"{llamas[0].url}/props", timeout=30)
    assert props["total_slots"] == 4
    assert props["chat_template"] == own.json()["chat_template"]
    assert props["default_generation_settings"]["n_ctx"] == 32768


HEAD = b"POST /completion HTTP/1.%d\r\nHost: rig\r\nConnection: close\r\n%b\r\n\r\n"
ASKED = b'{"prompt": " 6 7", "n_predict": 3}'
STREAMED = b'{"prompt": " 6 7", "n_predict": 3, "stream": true}'


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (HEAD % (0, b"Content-Length: %d" % len(ASKED)), ASKED),
        (HEAD % (0, b"Content-Length: %d" % len(STREAMED)), STREAMED),
        (HEAD % (1, b"Content-Length: %d\r\nExpect: 100-continue" % len(ASKED)), ASKED),
        (
            HEAD % (1, b"Transfer-Encoding: chunked"),
            b"5\r\n%b\r\n%x;x=y\r\n%b\r\n0\r\nX-Trailer: x\r\n\r\n"
            % (ASKED[:5], len(ASKED) - 5, ASKED[5:]),
        ),
    ],
    ids=["HTTP/1.0", "HTTP/1.0 stream", "expect", "chunked"],
)
def test_other_ways_of_asking(counting: Proxy, head: bytes, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", counting.port), timeout=30) as sock:
        sock.sendall(head)
        with sock.makefile("rb") as stream:
            if b"Expect" in head:
                assert stream.readline() + stream.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
            sock.sendall(body)
            answer_head, _, answer = stream.read().partition(b"\r\n\r\n")
    assert b" 200 OK" in answer_head.splitlines()[0]
    # HTTP/1.0 knows no chunks: the end of the connection is the end of the stream.
    assert b"chunked" not in answer_head.lower()
    data = answer.decode().removeprefix("data: ").split("\n\ndata: ")
    assert "".join(json.loads(each)["content"] for each in data) == " 8 9 10"


def test_a_slot_of_a_talkative_llama_server(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    slot = {
        "id": 0,
        "is_processing": True,
        "prompt": "secret",
        "prompt_tokens": [1, 2, 3],
        "generated": "secret",
        "params": {"grammar": "secret"},
        "next_token": [{"n_remain": 5, "stopping_word": "secret"}],
    }
    upstream = start_upstream(lambda c, _: c.answer("200 OK", json.dumps([slot]).encode()))
    assert get(start_proxy(upstream.url), "/slots").json() == [
        {
            "backend": upstream.url.removeprefix("http://"),
            "id": 0,
            "is_processing": True,
            "next_token": [{"n_remain": 5}],
        }
    ]


def test_slots_of_llama_servers_that_do_not_tell_them(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1, flags="--no-slots")
    answer = get(start_proxy(llama.url), "/slots")
    assert answer.status_code == 501
    assert "--slots" in answer.json()["error"]["message"]
    assert answer.headers["X-Should-Retry"] == "false"


def test_whoever_wants_an_idle_slot(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path
) -> None:
    (llama,) = llama_servers(1, model=slow_model, slots=1)
    proxy = start_proxy(llama.url)
    assert get(proxy, "/slots?fail_on_no_slot=1").ok
    with proxy.stream("/completion", prompt="x", n_predict=-1, ignore_eos=True):
        assert llama.is_generating()
        wait_until(lambda: get(proxy, "/slots?fail_on_no_slot=1").status_code == 503, "it is busy")
        assert get(proxy, "/slots").ok
        # A gateway takes a 503 for a rig that has failed.
        told = requests.get(
            f"{proxy.url}/slots?fail_on_no_slot=1", headers={"X-HeartCode-Try": "slot"}, timeout=30
        )
        assert told.status_code == 403
    assert told.json()["error"] | {"param": 0} == {
        "message": "no slot available",
        "type": "invalid_request_error",
        "param": 0,
        "code": "no_slot",
    }


def test_polling_slots_asks_a_backend_every_two_seconds_at_most(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream(lambda c, _: c.answer("200 OK", b"[]"))
    proxy = start_proxy(upstream.url)
    began = time.monotonic()
    for _ in range(30):
        assert get(proxy, "/slots").json() == []
    assert 1 <= len(upstream.requests) <= 1 + (time.monotonic() - began) // 2


def test_what_llama_servers_say_of_themselves(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url)
    own = requests.get(f"{llama.url}/props", timeout=30).json()["build_info"]

    def told() -> dict[str, Any]:
        (rig,) = get(proxy, "/fleet").json()["rigs"]
        assert rig["version"] == __version__
        backend: dict[str, Any] = rig["backends"][0]
        return backend

    wait_until(lambda: told()["version"] != "-", "it was asked")
    assert told()["version"] == own


@pytest.mark.parametrize("route", LEFT_OUT)
def test_what_is_left_out_is_there_at_a_llama_server_and_not_here(
    counting: Proxy, route: str
) -> None:
    method, path = route.split()
    answer = requests.request(method, counting.url + path.replace(":id_slot", "0"), timeout=30)
    assert answer.status_code in (404, 405)
    assert answer.json()["error"]["code"] in ("not_found", "method_not_allowed", "model_not_found")


def test_no_route_of_the_pinned_llama_server_is_forgotten() -> None:
    """A new version has new ones: each gets a route, or a reason to have none."""
    pin = load("roles/llama_cpp/defaults/main.yml")["llama_cpp_source_version"]
    own = os.environ.get("HEARTCODE_CACHE_DIR", Path.home() / ".cache/heartcode")
    archive = Path(own, f"llama.cpp/llama_cpp_python-{pin}.tar.gz")
    if not archive.exists():
        pytest.skip("llama.cpp's source is only where it was built")
    command = ["tar", "-xzOf", str(archive), "--wildcards", "*/tools/server/server.cpp"]
    source = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    methods = {"get": "GET", "post": "POST", "del": "DELETE"}
    found = re.findall(r'ctx_http[.](get|post|del) *\("([^"]+)"', source)
    routes = {f"{methods[method]} {path}" for method, path in found}
    served = {f"POST {path}" for endpoint in ENDPOINTS for path in endpoint.paths}
    told = ("/health", "/v1/health", "/props", "/slots", "/models", "/v1/models")
    assert routes == served | {f"GET {path}" for path in told} | set(LEFT_OUT)


@pytest.mark.parametrize("path", ["/props", "/slots", "/v1/models"])
def test_no_backend_can_tell(alone: Proxy, path: str) -> None:
    answer = get(alone, path)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "backend_unavailable"


def test_real_answers_of_the_other_endpoints(counting: Proxy) -> None:
    tokens = counting.post("/tokenize", content=" 1 2").json()["tokens"]
    assert counting.post("/detokenize", tokens=tokens).json() == {"content": " 1 2"}
    user = [{"role": "user", "content": "Count!"}]
    assert "Count!" in counting.post("/apply-template", messages=user).json()["prompt"]
    message = counting.post("/v1/messages", messages=user, max_tokens=5).json()
    assert message["content"][0]["text"] == counted_to(5)
    response = counting.post("/v1/responses", input="Count!", max_output_tokens=5).json()
    assert response["output"][0]["content"][0]["text"] == counted_to(5)
    # A llama-server without that ability says so itself.
    assert counting.post("/v1/embeddings", input="x").status_code == 501
