"""What a user of LangChain's OpenAI client sees, before real llama-servers.

It is built on the openai package (test_openai_sdk.py); this is about what it adds: its own choice
of fields, messages with usage, structured output, many requests at once, its own retries.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from tests.integration.conftest import StartLlamas, StartProxy
from tests.integration.processes import CHAT, Proxy, connect_and_send, counted_to, wait_until

MODEL = "counting"
ENDLESS = {
    "messages": [{"role": "user", "content": "x"}],
    "max_tokens": 30000,
    "ignore_eos": True,
    "stream": True,
}


class Age(BaseModel):
    """A person's age."""

    years: int


def chat(proxy: Proxy, **options: Any) -> ChatOpenAI:
    fields = {"model": MODEL, "max_tokens": 8, "max_retries": 0, "timeout": 30, **options}
    return ChatOpenAI(base_url=f"{proxy.url}/v1", api_key=SecretStr("none"), **fields)


@pytest.fixture(scope="module")
def proxy(lasting_llamas: StartLlamas, lasting_proxy: StartProxy) -> Proxy:
    backends = [llama.url for llama in lasting_llamas(2, name=MODEL)]
    return lasting_proxy(*backends, HEARTCODE_MODEL=MODEL, HEARTCODE_SLOTS="2")


def test_an_answer_with_its_usage(proxy: Proxy) -> None:
    answer = chat(proxy).invoke([("system", "You count."), ("user", "Count, please.")])
    assert answer.text == counted_to(8)
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 8
    assert answer.response_metadata["finish_reason"] == "length"
    assert chat(proxy).invoke("Count!", stop=[" 4"]).text == counted_to(3)


def test_a_stream_with_its_usage(proxy: Proxy) -> None:
    chunks = list(chat(proxy, stream_usage=True).stream("Count, please."))
    assert [chunk.text for chunk in chunks if chunk.text] == [f" {n}" for n in range(1, 9)]
    usages = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    assert [usage["output_tokens"] for usage in usages] == [8]


def test_many_at_once(proxy: Proxy) -> None:
    async def gather() -> list[str]:
        batch = await chat(proxy).abatch([str(n) for n in range(20)])
        stream = [chunk.text async for chunk in chat(proxy).astream("x")]
        return [*(answer.text for answer in batch), "".join(stream)]

    before = len(proxy.log_lines())
    assert asyncio.run(gather()) == [counted_to(8)] * 21
    lines = proxy.log_lines()[before:]
    assert {line["backend"] for line in lines if line["endpoint"] == CHAT} == set(
        proxy.env["HEARTCODE_BACKENDS"].replace("http://", "").split(",")
    )


def test_structured_output(proxy: Proxy) -> None:
    asked = chat(proxy, max_tokens=100).with_structured_output(Age, method="json_schema")
    assert isinstance(asked.invoke("How old?"), Age)


def test_the_responses_endpoint(proxy: Proxy) -> None:
    responses = chat(proxy, use_responses_api=True)
    assert responses.invoke("Count!").text == counted_to(8)
    assert "".join(chunk.text for chunk in responses.stream("Count!")) == counted_to(8)


def test_text_completions(proxy: Proxy) -> None:
    llm = OpenAI(
        base_url=f"{proxy.url}/v1",
        api_key=SecretStr("none"),
        model=MODEL,
        max_tokens=3,
        max_retries=0,
    )
    assert llm.batch([" 6 7", " 10"]) == [" 8 9 10", " 11 12 13"]
    assert "".join(llm.stream(" 6 7")) == " 8 9 10"


def test_embeddings(llama_servers: StartLlamas, start_proxy: StartProxy) -> None:
    (llama,) = llama_servers(1, name=MODEL, flags="--embeddings --pooling mean")
    embeddings = OpenAIEmbeddings(
        base_url=f"{start_proxy(llama.url, HEARTCODE_MODEL=MODEL).url}/v1",
        api_key=SecretStr("none"),
        model=MODEL,
        check_embedding_ctx_length=False,  # else it sends the tokens of OpenAI's tokenizer
    )
    first, again, other = embeddings.embed_documents([" 1", " 1", " 2"])
    assert len(first) == 256
    assert first == pytest.approx(again)
    assert first != pytest.approx(other)


def test_errors(proxy: Proxy) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        chat(proxy, model="gpt-4").invoke("x")
    assert unknown.value.code == "model_not_found"
    before = len(proxy.log_lines())
    with pytest.raises(openai.APITimeoutError):
        chat(proxy, timeout=0.2, max_tokens=4000).invoke("x")
    wait_until(
        lambda: any(line["outcome"] == "disconnected" for line in proxy.log_lines()[before:]),
        "it is told",
    )


@pytest.mark.ci
def test_a_full_rig_is_asked_again(llama_servers: StartLlamas, start_proxy: StartProxy) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url, HEARTCODE_QUEUE_LENGTH="0")

    def refused() -> int:
        return sum(line["status"] == 429 for line in proxy.log_lines())

    with ThreadPoolExecutor(1) as threads:
        with connect_and_send(proxy, CHAT, ENDLESS):
            wait_until(llama.is_generating, "the slot is taken")
            with pytest.raises(openai.RateLimitError) as full:
                chat(proxy).invoke("x")
            assert int(full.value.response.headers["Retry-After"]) >= 1
            asked = threads.submit(chat(proxy, max_retries=5).invoke, "x")
            wait_until(lambda: refused() == 2, "the patient one is refused as well")
        assert asked.result().text == counted_to(8)
