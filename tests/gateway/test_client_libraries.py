"""What the client libraries of both worlds make of what the gateway answers and passes on."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
import requests
from anthropic.types import MessageParam

from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import Gateway
from tests.integration.misbehaving import Connection, Request, Upstream
from tests.integration.processes import Proxy
from tests.integration.test_anthropic_sdk import die_amid_a_stream

MODEL = "counting"
HELLO: list[MessageParam] = [{"role": "user", "content": "Hello!"}]
MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"


def raised_by(
    gateway: Gateway, *, key: str | None = None, **fields: Any
) -> anthropic.APIStatusError:
    """Return what the anthropic package raises, for a message and for its tokens alike."""
    given: dict[str, Any] = {"model": MODEL, "messages": HELLO, **fields}
    key = gateway.key if key is None else key
    with anthropic.Anthropic(base_url=gateway.url, api_key=key, max_retries=0) as client:
        with pytest.raises(anthropic.APIStatusError) as of_tokens:
            client.messages.count_tokens(**given)
        with pytest.raises(anthropic.APIStatusError) as raised:
            client.messages.create(max_tokens=5, **given)
    error = raised.value
    if error.error_code != "rig_unavailable":  # a rig's first failure is told as such
        assert (type(error), error.type) == (type(of_tokens.value), of_tokens.value.type)
    assert error.request_id
    assert error.request_id == error.response.headers["X-Request-Id"]
    assert isinstance(error.body, dict)
    assert error.body["request_id"] == error.request_id
    return error


def test_a_key_of_nobody(start_gateway: StartGateway) -> None:
    error = raised_by(start_gateway(), key="of-nobody-at-all-here")
    assert type(error) is anthropic.AuthenticationError
    assert (error.type, error.error_code) == ("authentication_error", "invalid_api_key")


def test_a_model_that_does_not_exist(start_gateway: StartGateway) -> None:
    error = raised_by(start_gateway(), model="gpt-4")
    assert type(error) is anthropic.NotFoundError
    assert (error.type, error.error_code) == ("not_found_error", "model_not_found")


def test_no_rig_is_there(start_gateway: StartGateway) -> None:
    error = raised_by(start_gateway())
    assert type(error) is anthropic.ServiceUnavailableError
    assert (error.type, error.error_code) == ("overloaded_error", "rig_unavailable")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "kind", "code"),
    [
        ("GET", MESSAGES, {}, 405, "invalid_request_error", "method_not_allowed"),
        ("GET", f"{COUNT}?beta=true", {}, 405, "invalid_request_error", "method_not_allowed"),
        ("POST", f"{MESSAGES}/batches", {}, 404, "not_found_error", "not_found"),
        (
            *("POST", MESSAGES, {"Content-Length": "99000000"}),
            *(413, "request_too_large", "request_too_large"),
        ),
        (
            "POST",
            f"//v1/messages?{'x' * 99}",
            {"X": "x" * 9000},
            431,
            "invalid_request_error",
            "headers_too_large",
        ),
        ("POST", MESSAGES, {"Transfer-Encoding": "gzip"}, 501, "api_error", "not_implemented"),
    ],
)
def test_what_nginx_finds_by_itself(
    start_gateway: StartGateway,
    *,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    kind: str,
    code: str,
) -> None:
    gateway = start_gateway()
    answer = requests.request(
        method, gateway.url + path, headers=gateway.authorization | headers, timeout=30
    )
    assert answer.status_code == status
    told = answer.json()
    assert (told["type"], told["error"]["type"]) == ("error", kind)
    assert told["error"]["details"] == {"error_code": code, "param": None}
    assert told["request_id"] == answer.headers["Request-Id"] == answer.headers["X-Request-Id"]
    assert answer.headers.get("X-Should-Retry") == ("false" if status == 501 else None)


def test_a_stream_that_breaks(start_gateway: StartGateway, tmp_path: Path) -> None:
    """The rig's last event, as it comes out of the gateway."""
    with ExitStack() as stack:
        llama = stack.enter_context(Upstream(die_amid_a_stream, model=MODEL))
        proxy = Proxy(tmp_path / "rig", [llama.url], HEARTCODE_MODEL=MODEL)
        stack.callback(proxy.kill)
        gateway = start_gateway(rigs=[proxy.port])
        with (
            anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key) as client,
            pytest.raises(anthropic.APIStatusError) as broken,
            client.messages.stream(model=MODEL, max_tokens=5, messages=HELLO) as stream,
        ):
            stream.get_final_message()
    assert (broken.value.type, broken.value.error_code) == ("api_error", "backend_failed")
    assert broken.value.request_id


def test_whether_to_ask_again_is_the_rig_s_word(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    def refuse(connection: Connection, _: Request) -> None:
        connection.send(
            b"HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nX-Should-Retry: false\r\n"
            b"Request-Id: theirs\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
        )

    for rig in stand_ins:
        rig.behave = refuse
    gateway = start_gateway(rigs=[rig.port for rig in stand_ins])
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key) as client,
        pytest.raises(openai.InternalServerError) as refused,
    ):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello!"}]
        )
    headers = refused.value.response.headers
    assert headers.get_list("X-Should-Retry") == ["false"]
    assert "Request-Id" not in headers
    assert sum(len(rig.requests) for rig in stand_ins) == 1
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=gateway.key) as own,
        pytest.raises(anthropic.InternalServerError) as again,
    ):
        own.messages.create(model=MODEL, max_tokens=5, messages=HELLO)
    assert len(again.value.response.headers.get_list("Request-Id")) == 1
    assert again.value.request_id != "theirs"
    assert sum(len(rig.requests) for rig in stand_ins) == 2


def test_whoever_wants_an_idle_slot_finds_none_and_marks_no_rig(
    start_gateway: StartGateway, stand_ins: list[Upstream]
) -> None:
    def be_busy(connection: Connection, request: Request) -> None:
        if request.path.startswith("/slots"):
            error = b'{"error": {"message": "no slot available"}}'
            head = b"HTTP/1.1 403 No\r\nX-HeartCode-Error: no_slot\r\nContent-Length: %d\r\n\r\n"
            connection.send(head % len(error) + error)
        else:
            connection.answer("200 OK", b"{}")

    for rig in stand_ins:
        rig.behave = be_busy
    gateway = start_gateway(rigs=[rig.port for rig in stand_ins])
    for _ in range(2):
        answer = requests.get(
            f"{gateway.url}/slots?fail_on_no_slot=1", headers=gateway.authorization, timeout=30
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_slot")
    props = requests.get(f"{gateway.url}/props", headers=gateway.authorization, timeout=30)
    assert props.status_code == 200
