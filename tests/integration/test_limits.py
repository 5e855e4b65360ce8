"""What the proxy refuses or ends because it is too much."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
import requests

from tests.integration.conftest import StartProxy, StartUpstream
from tests.integration.misbehaving import be_silent, one_event_then_silence, serve_two_tokens
from tests.integration.processes import Proxy, free_port, wait_until


def last_error(answer: requests.Response) -> dict[str, Any]:
    """Return the error that ends the stream; a bare cut would have raised before."""
    last = answer.content.strip().split(b"\n\n")[-1]
    error: dict[str, Any] = json.loads(last.removeprefix(b"data: "))["error"]
    return error


@pytest.fixture(scope="module")
def alone(lasting_proxy: StartProxy) -> Proxy:
    """A proxy without a backend: what it refuses needs none."""
    return lasting_proxy(f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_request_that_takes_too_long_before_its_first_byte(
    start_proxy: StartProxy, start_upstream: StartUpstream, *, stream: bool
) -> None:
    proxy = start_proxy(start_upstream(be_silent).url, HEARTCODE_REQUEST_TIMEOUT_S="0.3")
    answer = proxy.post(prompt="x", stream=stream)
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "request_timeout"
    assert proxy.log_line(answer.headers["X-Request-Id"])["outcome"] == "failed"


def test_a_stream_that_takes_too_long_ends_with_an_error_event(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream(one_event_then_silence)
    proxy = start_proxy(upstream.url, HEARTCODE_REQUEST_TIMEOUT_S="0.3")
    answer = proxy.post(prompt="x", stream=True)
    assert answer.content.startswith(b'data: {"n":1}\n\n')
    assert last_error(answer)["code"] == "request_timeout"
    assert proxy.log_line(answer.headers["X-Request-Id"])["outcome"] == "failed"


@pytest.mark.ci
def test_a_stream_that_outlasts_a_stop_ends_with_an_error_event(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream(one_event_then_silence)
    proxy = start_proxy(upstream.url, HEARTCODE_GRACEFUL_TIMEOUT_S="1")
    with proxy.stream(prompt="x") as answer:
        proxy.process.terminate()
        assert last_error(answer)["code"] == "restarting"
    assert proxy.process.wait(30) == 0


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("/?" + "x" * 4100, {}, 414, "request_line_too_long"),
        ("/livez", {"X-Long": "x" * 9000}, 431, "headers_too_large"),
        ("/livez", {f"X-{n}": "x" for n in range(101)}, 431, "headers_too_large"),
        ("/livez", {"X Y": "x"}, 400, "bad_request"),
    ],
    ids=["line", "header", "headers", "syntax"],
)
def test_what_gunicorn_refuses_has_openai_s_shape(
    alone: Proxy, path: str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = requests.get(alone.url + path, headers=headers, timeout=30)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", code)


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}0\r\n\r\n"],
    ids=["size", "negative", "end"],
)
def test_improper_chunks_are_the_client_s_fault(alone: Proxy, chunks: bytes) -> None:
    before = len(alone.log_lines())
    head = b"POST /completion HTTP/1.1\r\nHost: rig\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", alone.port), timeout=30) as sock:
        sock.sendall(head + chunks)
        with sock.makefile("rb") as stream:
            answer = stream.read()  # to the end: what follows such a body is no request
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"code":"bad_request"' in answer
    wait_until(
        lambda: any(line["outcome"] == "rejected" for line in alone.log_lines()[before:]),
        "it is told",
    )


def test_limits_of_the_headers_can_be_set(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    proxy = start_proxy(
        start_upstream(serve_two_tokens).url,
        HEARTCODE_MAX_REQUEST_LINE_BYTES="8190",
        HEARTCODE_MAX_HEADERS="200",
        HEARTCODE_MAX_HEADER_BYTES="20000",
    )
    many = {f"X-{n}": "x" for n in range(150)}
    for path, headers in (("/livez?" + "x" * 8000, {}), ("/livez", {**many, "X-L": "x" * 16000})):
        assert requests.get(proxy.url + path, headers=headers, timeout=30).ok


@pytest.mark.parametrize(
    "framing",
    ["Content-Length: 9", pytest.param("Transfer-Encoding: chunked", marks=pytest.mark.ci)],
)
def test_a_body_that_stops_in_the_middle_is_not_waited_for(
    start_proxy: StartProxy, framing: str
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    proxy = start_proxy(nobody, HEARTCODE_CLIENT_STALL_TIMEOUT_S="0.3", awaited=False)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n5\r\n{{"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as client:
        client.sendall(head.encode())
        answer = client.makefile("rb").read()  # to its end: the connection is closed
    status, _, rest = answer.partition(b"\r\n")
    assert status.split()[1] == b"408"
    assert json.loads(rest.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("framing", ["Content-Length: 99", "Transfer-Encoding: chunked"])
def test_a_body_that_breaks_off_is_refused_though_what_has_come_is_json(
    start_proxy: StartProxy, start_upstream: StartUpstream, framing: str
) -> None:
    upstream = start_upstream(serve_two_tokens)
    proxy = start_proxy(upstream.url)
    body = '{"prompt": "1", "max_tokens": 2}'
    size = f"{len(body) + 9:x}\r\n" if "chunked" in framing else ""
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as client:
        client.sendall(f"{head}{size}{body}".encode())
        client.shutdown(socket.SHUT_WR)
        answer = client.makefile("rb").read()
    assert answer.split()[1] == b"400"
    assert b'"code":"bad_request"' in answer
