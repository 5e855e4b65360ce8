"""What a user of the openai package sees, before a real llama-server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.integration.conftest import StartLlamas, StartProxy, StartUpstream
from tests.integration.misbehaving import Connection, Request, be_silent, reset_at_once
from tests.integration.processes import Llama, Proxy, counted_to, wait_until

MODEL = "counting"
COUNT: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Count, please."}]


def sdk(proxy: Proxy, **options: float) -> openai.OpenAI:
    timeout = options.get("timeout", 30)
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", max_retries=0, timeout=timeout)


@pytest.fixture(scope="module")
def llama(lasting_llamas: StartLlamas) -> Llama:
    return lasting_llamas(1, name=MODEL)[0]


@pytest.fixture(scope="module")
def proxy(llama: Llama, lasting_proxy: StartProxy) -> Proxy:
    return lasting_proxy(llama.url, HEARTCODE_MODEL=MODEL, HEARTCODE_MAX_TOKENS="30000")


@pytest.fixture
def client(proxy: Proxy) -> Iterator[openai.OpenAI]:
    with sdk(proxy) as client:
        yield client


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=20)
    assert answer.choices[0].message.content == counted_to(20)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20


def test_streamed_chat(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=COUNT,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"min_p": 0.1, "dry_multiplier": 0.0, "timings_per_token": True},
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == counted_to(20)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20


def test_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt=" 6 7", max_tokens=3)
    assert answer.choices[0].text == " 8 9 10"
    stream = client.completions.create(model=MODEL, prompt=" 6 7", max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == " 8 9 10"


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model=MODEL, input="Count!", max_output_tokens=5)
    assert answer.output_text == counted_to(5)
    # Not the package's stream helper: llama-server's events lack the `content_index` it wants.
    stream = client.responses.create(model=MODEL, input="Count!", max_output_tokens=5, stream=True)
    deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == counted_to(5)


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_errors_are_the_package_s_own(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-4", messages=COUNT)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=MODEL, messages=COUNT, max_tokens=30001)
    assert wrong.value.param == "max_tokens"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=MODEL, messages=[])


def test_a_backend_that_fails(start_proxy: StartProxy, start_upstream: StartUpstream) -> None:
    with sdk(start_proxy(start_upstream(reset_at_once).url)) as client:
        with pytest.raises(openai.InternalServerError) as failed:
            client.chat.completions.create(model=MODEL, messages=COUNT)
        assert failed.value.code == "backend_failed"
        assert failed.value.request_id


def die_amid_a_stream(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.chunk(b'data: {"type":"response.in_progress","choices":[]}\n\n')
    connection.reset()


@pytest.mark.parametrize("api", ["chat", "completions", "responses"])
def test_a_stream_that_breaks_raises(
    start_proxy: StartProxy, start_upstream: StartUpstream, api: str
) -> None:
    # Three choices: an answer that cannot be continued.
    with sdk(start_proxy(start_upstream(die_amid_a_stream).url)) as client:
        stream: Iterable[object]
        if api == "chat":
            stream = client.chat.completions.create(model=MODEL, messages=COUNT, stream=True, n=3)
        elif api == "completions":
            stream = client.completions.create(model=MODEL, prompt="x", stream=True, n=3)
        else:
            stream = client.responses.create(model=MODEL, input="x", stream=True)
        with pytest.raises(openai.APIError) as failed:
            list(stream)
    assert (failed.value.type, failed.value.code) == ("server_error", "backend_failed")


def asked_again(proxy: Proxy) -> openai.OpenAI:
    """As the package is by default: it asks twice more after what may pass."""
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="none", timeout=30)


def test_what_the_model_cannot_do_is_asked_for_once(proxy: Proxy) -> None:
    before = len(proxy.log_lines())
    seen: list[ChatCompletionUserMessageParam] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x"}}]}
    ]
    with asked_again(proxy) as client:
        with pytest.raises(openai.InternalServerError) as failed:
            client.embeddings.create(model=MODEL, input="x")
        assert failed.value.status_code == 501
        with pytest.raises(openai.BadRequestError) as wrong:
            client.chat.completions.create(model=MODEL, messages=seen)
        assert (wrong.value.code, wrong.value.param) == ("unsupported_content", "messages")
    wait_until(lambda: len(proxy.log_lines()) >= before + 2, "both are told")
    told = proxy.log_lines()[before:]
    assert [(line["status"], line["backend"] is None) for line in told] == [
        (501, False),
        (400, True),
    ]


def test_what_two_backends_agree_on_is_asked_for_once(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    def refuse(connection: Connection, _: Request) -> None:
        connection.answer("500 Oops", b'{"error": {"message": "Failed to parse", "code": 500}}')

    upstreams = [start_upstream(refuse) for _ in range(2)]
    proxy = start_proxy(*(upstream.url for upstream in upstreams))
    with (
        asked_again(proxy) as client,
        pytest.raises(openai.InternalServerError, match="Failed to parse"),
    ):
        client.chat.completions.create(model=MODEL, messages=COUNT)
    assert [len(upstream.requests) for upstream in upstreams] == [1, 1]


def test_a_timeout_of_the_client(start_proxy: StartProxy, start_upstream: StartUpstream) -> None:
    proxy = start_proxy(start_upstream(be_silent).url)
    with sdk(proxy, timeout=0.3) as client, pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model=MODEL, messages=COUNT)
    wait_until(lambda: any(x["outcome"] == "disconnected" for x in proxy.log_lines()), "it is told")


def test_a_stream_that_is_closed_frees_the_slot(
    client: openai.OpenAI, proxy: Proxy, llama: Llama
) -> None:
    before = len(proxy.log_lines())
    with client.chat.completions.create(
        model=MODEL,
        messages=COUNT,
        max_tokens=30000,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as stream:
        next(iter(stream))
        assert llama.is_generating()
    wait_until(lambda: not llama.is_generating(), "the slot is free again", every_s=0.2)
    wait_until(
        lambda: any(x["outcome"] == "disconnected" for x in proxy.log_lines()[before:]),
        "it is told",
    )
