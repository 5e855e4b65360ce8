"""What a user of the anthropic package sees: an answer, and every kind of error as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam

from tests.integration.conftest import StartLlamas, StartProxy, StartUpstream
from tests.integration.misbehaving import (
    Behaviour,
    Connection,
    Request,
    Upstream,
    be_silent,
    one_event_then_silence,
    reset_at_once,
)
from tests.integration.processes import Proxy, counted_to, free_port

MODEL = "counting"
COUNT: list[MessageParam] = [{"role": "user", "content": "Count, please."}]
Ask = Callable[[anthropic.Anthropic], object]


def sdk(proxy: Proxy) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=proxy.url, api_key="none", max_retries=0, timeout=30)


def whole(client: anthropic.Anthropic) -> object:
    return client.messages.create(model=MODEL, max_tokens=20, messages=COUNT)


def streamed(client: anthropic.Anthropic) -> object:
    with client.messages.stream(model=MODEL, max_tokens=20, messages=COUNT) as stream:
        return stream.get_final_message()


def counted(client: anthropic.Anthropic) -> object:
    return client.messages.count_tokens(model=MODEL, messages=COUNT)


WAYS = pytest.mark.parametrize("ask", [whole, streamed], ids=["whole", "stream"])


def raised_by(proxy: Proxy, ask: Ask) -> anthropic.APIStatusError:
    """Return the exception; it has told the request's id, and the log knows it by that."""
    with sdk(proxy) as client, pytest.raises(anthropic.APIStatusError) as raised:
        ask(client)
    error = raised.value
    assert error.request_id
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    assert error.body["request_id"] == error.request_id
    assert proxy.log_line(error.request_id)["status"] == error.status_code
    return error


@pytest.fixture(scope="module")
def proxy(lasting_llamas: StartLlamas, lasting_proxy: StartProxy) -> Proxy:
    """Before a real llama-server."""
    (llama,) = lasting_llamas(1, name=MODEL)
    return lasting_proxy(llama.url, HEARTCODE_MODEL=MODEL, HEARTCODE_MAX_TOKENS="30000")


@pytest.fixture
def client(proxy: Proxy) -> Iterator[anthropic.Anthropic]:
    with sdk(proxy) as client:
        yield client


@pytest.fixture(scope="module")
def upstream(lasting_upstream: StartUpstream) -> Upstream:
    """What a test lets it do."""
    return lasting_upstream(be_silent)


@pytest.fixture(scope="module")
def before_it(lasting_proxy: StartProxy, upstream: Upstream) -> Proxy:
    return lasting_proxy(upstream.url)


def refusing(status: str, kind: str) -> Behaviour:
    """A llama-server that answers as it does whatever it was asked for."""
    error = {"error": {"code": int(status[:3]), "message": "so it is", "type": kind}}
    return lambda connection, _: connection.answer(status, json.dumps(error).encode())


def event(name: str, **data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()


def begin(connection: Connection) -> None:
    """Send the beginning of a stream of messages, as llama-server does."""
    message: dict[str, Any] = {
        "id": "x",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": MODEL,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 0},
    }
    connection.start_stream()
    connection.chunk(event("message_start", message=message))
    block = {"type": "text", "text": ""}
    connection.chunk(event("content_block_start", index=0, content_block=block))
    for word in ("It", " was", " a"):
        delta = {"type": "text_delta", "text": word}
        connection.chunk(event("content_block_delta", index=0, delta=delta))


def die_amid_a_stream(connection: Connection, _: Request) -> None:
    begin(connection)
    connection.reset()


def fail_amid_a_stream(connection: Connection, _: Request) -> None:
    begin(connection)
    connection.chunk(b'event: error\ndata: {"code":500,"message":"Compute error."}\n\n')
    connection.send(b"0\r\n\r\n")


def stop_amid_a_stream(connection: Connection, _: Request) -> None:
    begin(connection)
    connection.send(b"0\r\n\r\n")


def test_answers(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model=MODEL, max_tokens=20, messages=COUNT)
    assert [block.to_dict()["text"] for block in message.content] == [counted_to(20)]
    assert message._request_id
    with client.messages.stream(model=MODEL, max_tokens=20, messages=COUNT) as stream:
        assert "".join(stream.text_stream) == counted_to(20)
        assert stream.request_id
    assert client.messages.count_tokens(model=MODEL, messages=COUNT).input_tokens > 0


@pytest.mark.parametrize("ask", [whole, counted], ids=["message", "tokens"])
@pytest.mark.parametrize(
    ("given", "expected", "kind", "code"),
    [
        ({"model": "gpt-4"}, anthropic.NotFoundError, "not_found_error", "model_not_found"),
        (
            {"messages": [{"content": "x"}]},
            *(anthropic.BadRequestError, "invalid_request_error", "missing_required_parameter"),
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}
                ]
            },
            *(anthropic.BadRequestError, "invalid_request_error", "unsupported_content"),
        ),
    ],
    ids=["model", "role", "picture"],
)
def test_what_the_client_did_wrong(
    proxy: Proxy,
    *,
    ask: Ask,
    given: dict[str, Any],
    expected: type[anthropic.APIStatusError],
    kind: str,
    code: str,
) -> None:
    fields: dict[str, Any] = {"model": MODEL, "messages": COUNT, **given}

    def asked(client: anthropic.Anthropic) -> object:
        if ask is whole:
            return client.messages.create(max_tokens=20, **fields)
        return client.messages.count_tokens(**fields)

    error = raised_by(proxy, asked)
    assert type(error) is expected
    assert (error.type, error.error_code) == (kind, code)


@WAYS
@pytest.mark.parametrize(
    ("status", "theirs", "expected", "kind"),
    [
        (
            "400 Bad",
            "exceed_context_size_error",
            anthropic.BadRequestError,
            "invalid_request_error",
        ),
        ("404 No", "not_found_error", anthropic.NotFoundError, "not_found_error"),
        ("500 Oops", "server_error", anthropic.InternalServerError, "api_error"),
        ("501 No", "not_supported_error", anthropic.HTTPNotImplementedError, "api_error"),
    ],
    ids=["400", "404", "500", "501"],
)
def test_what_a_backend_refuses(
    before_it: Proxy,
    upstream: Upstream,
    *,
    ask: Ask,
    status: str,
    theirs: str,
    expected: type[anthropic.APIStatusError],
    kind: str,
) -> None:
    upstream.behave = refusing(status, theirs)
    error = raised_by(before_it, ask)
    assert type(error) is expected
    assert (error.type, error.error_code, error.api_message) == (kind, theirs, "so it is")


@WAYS
def test_a_backend_that_fails_before_the_first_token(
    before_it: Proxy, upstream: Upstream, ask: Ask
) -> None:
    upstream.behave = reset_at_once
    error = raised_by(before_it, ask)
    assert type(error) is anthropic.InternalServerError
    assert (error.status_code, error.type, error.error_code) == (502, "api_error", "backend_failed")


@pytest.mark.parametrize(
    "behave", [die_amid_a_stream, fail_amid_a_stream, stop_amid_a_stream], ids=lambda b: b.__name__
)
def test_a_stream_that_breaks_raises(
    before_it: Proxy, upstream: Upstream, behave: Behaviour
) -> None:
    upstream.behave = behave
    told: list[str] = []
    with (
        sdk(before_it) as client,
        pytest.raises(anthropic.APIStatusError) as raised,
        client.messages.stream(model=MODEL, max_tokens=20, messages=COUNT) as stream,
    ):
        told.extend(stream.text_stream)
    assert "".join(told) == "It was a"
    error = raised.value
    assert (error.type, error.error_code) == ("api_error", "backend_failed")
    assert error.request_id
    assert before_it.log_line(error.request_id)["outcome"] == "failed"


@WAYS
def test_no_backend_is_there(lasting_proxy: StartProxy, ask: Ask) -> None:
    error = raised_by(lasting_proxy(f"http://127.0.0.1:{free_port()}"), ask)
    assert type(error) is anthropic.ServiceUnavailableError
    assert error.type == "overloaded_error"


@WAYS
def test_all_slots_and_the_queue_are_full(
    start_proxy: StartProxy, start_upstream: StartUpstream, ask: Ask
) -> None:
    upstream = start_upstream(one_event_then_silence)
    proxy = start_proxy(upstream.url, HEARTCODE_QUEUE_LENGTH="0")
    with proxy.stream(prompt="x"):
        error = raised_by(proxy, ask)
    assert type(error) is anthropic.RateLimitError
    assert (error.type, error.error_code) == ("rate_limit_error", "queue_full")
    assert error.response.headers["Retry-After"]


@WAYS
def test_a_request_that_takes_too_long(
    start_proxy: StartProxy, start_upstream: StartUpstream, ask: Ask
) -> None:
    proxy = start_proxy(start_upstream(be_silent).url, HEARTCODE_REQUEST_TIMEOUT_S="0.3")
    error = raised_by(proxy, ask)
    assert type(error) is anthropic.GatewayTimeoutError
    assert (error.type, error.error_code) == ("timeout_error", "request_timeout")


def test_an_error_after_a_sign_of_life_raises_too(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    proxy = start_proxy(
        start_upstream(be_silent).url,
        HEARTCODE_PING_INTERVAL_S="0.1",
        HEARTCODE_REQUEST_TIMEOUT_S="0.5",
    )
    with sdk(proxy) as client, pytest.raises(anthropic.APIStatusError) as raised:
        streamed(client)
    assert raised.value.status_code == 200
    assert (raised.value.type, raised.value.error_code) == ("timeout_error", "request_timeout")
