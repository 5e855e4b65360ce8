"""The proxy before real llama-servers that count: a lost or doubled token shows in the text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.integration.conftest import StartLlamas, StartProxy
from tests.integration.processes import connect_and_send, content, counted_to, events, wait_until

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Count, please."}]}
LONG = {**QUESTION, "max_tokens": 4000}  # seconds of work
ENDLESS = {**QUESTION, "max_tokens": 30000, "ignore_eos": True}


def text_of(answer: requests.Response) -> str:
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_a_stream_counts_without_gap(llama_servers: StartLlamas, start_proxy: StartProxy) -> None:
    (llama,) = llama_servers(1)
    with start_proxy(llama.url).stream(**QUESTION, max_tokens=50) as answer:
        texts = [content(event) for event in events(answer)]
    assert "".join(texts) == counted_to(50)
    assert sum(1 for text in texts if text) > 40


def test_a_text_completion_goes_on_counting(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url)
    answer = proxy.post("/v1/completions", prompt=" 6 7", max_tokens=3)
    assert answer.json()["choices"][0]["text"] == " 8 9 10"


def test_tokens_arrive_while_others_are_still_to_come(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    with start_proxy(llama.url).stream(**LONG) as answer:
        texts = (content(event) for event in events(answer))
        first = next(text for text in texts if text)
        assert llama.is_generating()
        assert first == " 1"
        assert first + "".join(texts) == counted_to(4000)


def test_an_answer_that_is_not_streamed(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url)
    answer = proxy.post(**QUESTION, max_tokens=50)
    assert text_of(answer) == counted_to(50)
    line = proxy.log_line(answer.headers["X-Request-Id"])
    assert line["outcome"] == "completed"
    assert line["backend"] == llama.url.removeprefix("http://")
    assert "Count" not in proxy.stdout.read_text()
    assert counted_to(5) not in proxy.stdout.read_text()


def test_a_burst_uses_every_backend(llama_servers: StartLlamas, start_proxy: StartProxy) -> None:
    llamas = llama_servers(3)
    proxy = start_proxy(*(llama.url for llama in llamas))
    with ThreadPoolExecutor(12) as threads:
        burst = [threads.submit(proxy.post, **QUESTION, max_tokens=50) for _ in range(12)]
        answers = [future.result() for future in burst]
    assert {text_of(answer) for answer in answers} == {counted_to(50)}
    lines = [proxy.log_line(answer.headers["X-Request-Id"]) for answer in answers]
    assert {line["backend"] for line in lines} == {
        llama.url.removeprefix("http://") for llama in llamas
    }


def test_others_serve_when_a_backend_was_killed(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    dead, *others = llama_servers(2)
    proxy = start_proxy(dead.url, *(llama.url for llama in others))
    dead.kill()
    for _ in range(4):
        assert text_of(proxy.post(**QUESTION, max_tokens=5)) == counted_to(5)
    assert requests.get(f"{proxy.url}/health", timeout=30).status_code == 200


def test_killing_the_backend_ends_a_stream_with_an_error(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    with start_proxy(llama.url).stream(**ENDLESS) as answer:
        last: Any = None
        for line in answer.iter_lines(chunk_size=None):
            if last is None:
                llama.kill()
            last = line or last
    assert last.startswith(b'data: {"error":')


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_frees_the_slot(
    llama_servers: StartLlamas, start_proxy: StartProxy, *, stream: bool
) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url)
    with connect_and_send(proxy, "/v1/chat/completions", {**ENDLESS, "stream": stream}):
        wait_until(llama.is_generating, "the slot is taken")
    # Seldom: a llama-server whose answer is not streamed looks for its client only when no result,
    # be it of /slots, has been ready for a second.
    wait_until(lambda: not llama.is_generating(), "the slot is free again", every_s=1.5)
    assert llama.longest_sequence() < ENDLESS["max_tokens"]


def test_the_models_are_the_backends(llama_servers: StartLlamas, start_proxy: StartProxy) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url)
    own = requests.get(f"{llama.url}/v1/models", timeout=30).json()
    shown = requests.get(f"{proxy.url}/v1/models", timeout=30).json()
    assert [model["id"] for model in shown["data"]] == [model["id"] for model in own["data"]]
