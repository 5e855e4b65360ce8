"""Streams whose llama-server is lost: another one goes on, and the client sees one answer."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.conftest import StartExporter, StartLlamas, StartProxy, StartUpstream
from tests.integration.cutting import Cutter
from tests.integration.listening import (
    ASKED,
    CHAT,
    COMPLETIONS,
    NATIVE,
    Listener,
    assert_is_one_answer,
    text_of,
)
from tests.integration.processes import Llama, Proxy, connect_and_send, counted_to, wait_until


@pytest.mark.parametrize("path", [CHAT, pytest.param(COMPLETIONS, marks=pytest.mark.ci)])
def test_twenty_streams_count_on_when_their_llama_server_is_killed(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    start_exporter: StartExporter,
    slow_model: Path,
    path: str,
) -> None:
    dying, living = llamas = llama_servers(2, model=slow_model, slots=20)
    # Ten streams each, whatever the caches hold.
    proxy = start_proxy(
        *(llama.url for llama in llamas), HEARTCODE_SLOTS="20", HEARTCODE_POLICY="least_busy"
    )
    exporter = start_exporter(proxy)
    options = {"max_tokens": 100, "stream_options": {"include_usage": True}}
    streams = [Listener(proxy, path, **options) for _ in range(20)]
    for stream in streams:
        stream.wait_for_text(" 4")
    dying.kill()
    for stream in streams:
        stream.finish()
    assert [stream.text for stream in streams] == [counted_to(100)] * 20
    prompts = set()
    for stream in streams:
        assert_is_one_answer(stream.events)
        (usage,) = (event["usage"] for event in stream.events if event.get("usage"))
        assert usage["completion_tokens"] == 100
        assert usage["total_tokens"] == 100 + usage["prompt_tokens"]
        prompts.add(usage["prompt_tokens"])
        (timings,) = (event["timings"] for event in stream.events if "timings" in event)
        assert timings["predicted_n"] == 100
    assert len(prompts) == 1
    # Ten at most: one may have been done before the last of the twenty had begun.
    assert 5 < exporter.value("inference_resumes_total", reason="broken") <= 10
    assert not living.is_generating()


@pytest.mark.parametrize("tokens", [100, 7])
def test_llama_servers_own_streams_are_continued_too(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path, tokens: int
) -> None:
    dying, proxy = start_two(llama_servers, start_proxy, slow_model)
    undisturbed = proxy.post(NATIVE, **ASKED[NATIVE], n_predict=tokens, stream=True).text
    expected = json.loads(undisturbed.strip().splitlines()[-1].removeprefix("data: "))
    stream = Listener(proxy, NATIVE, n_predict=tokens)
    stream.wait_for_text(" 4")
    dying.kill()
    *events, last = stream.finish()
    assert stream.text == counted_to(tokens)
    assert [event["tokens_predicted"] for event in events] == list(range(1, tokens + 1))
    told = ("prompt", "tokens_predicted", "tokens_evaluated", "stop_type", "stopping_word", "model")
    assert {name: last[name] for name in told} == {name: expected[name] for name in told}
    for name in ("n_predict", "max_tokens", "stream"):
        assert last["generation_settings"][name] == expected["generation_settings"][name]


def start_two(
    llama_servers: StartLlamas, start_proxy: StartProxy, model: Path, **variables: str
) -> tuple[Llama, Proxy]:
    """Start two llama-servers before a proxy; return the one that gets the first request."""
    first, second = llama_servers(2, model=model)
    return first, start_proxy(first.url, second.url, **variables)


def test_a_llama_server_that_hangs_is_left(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path
) -> None:
    variables = {"HEARTCODE_TOKEN_SILENCE_TIMEOUT_S": "1", "HEARTCODE_PING_INTERVAL_S": "0.1"}
    hanging, proxy = start_two(llama_servers, start_proxy, slow_model, **variables)
    stream = Listener(proxy, CHAT, max_tokens=40)
    stream.wait_for_text(" 4")
    hanging.hang()
    assert_is_one_answer(stream.finish())
    assert stream.text == counted_to(40)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_stop_string_that_had_begun_is_honoured(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path, path: str
) -> None:
    dying, proxy = start_two(llama_servers, start_proxy, slow_model)
    # From " 5" on everything is held back, as it might be the stop string.
    stop = "".join(f" {number}" for number in range(5, 40))
    stream = Listener(proxy, path, max_tokens=200, stop=[stop])
    stream.wait_for_text(" 4")
    time.sleep(0.1)
    dying.kill()
    told = stream.finish()
    assert stream.text == counted_to(4)
    assert [e["choices"][0]["finish_reason"] for e in told][-1] == "stop"


def test_a_stream_survives_one_death_but_takes_no_third_backend(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path
) -> None:
    llamas = llama_servers(3, model=slow_model)
    proxy = start_proxy(*(llama.url for llama in llamas))
    stream = Listener(proxy, CHAT, max_tokens=4000)
    for number, llama in ((" 5 ", llamas[0]), (" 20 ", llamas[1])):
        stream.wait_for_text(number)
        llama.kill()
    last = stream.finish()[-1]
    assert last["error"]["code"] == "request_kills_backends"
    assert counted_to(4000).startswith(stream.text)


def test_the_clients_own_beginning_of_an_answer_is_kept(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path
) -> None:
    dying, proxy = start_two(llama_servers, start_proxy, slow_model)
    messages = [*ASKED[CHAT]["messages"], {"role": "assistant", "content": " 1 2 3"}]
    undisturbed = Listener(proxy, CHAT, messages=messages, max_tokens=40)
    undisturbed.finish()
    # Whether it is repeated in a stream depends on the version of llama.cpp.
    assert undisturbed.text in (counted_to(43), counted_to(43).removeprefix(" 1 2 3"))
    stream = Listener(proxy, CHAT, messages=messages, max_tokens=40)
    stream.wait_for_text(" 8")
    dying.kill()
    stream.finish()
    assert stream.text == undisturbed.text


@pytest.mark.parametrize(
    "fields",
    [
        {"grammar": 'root ::= (" " [0-9]+)+'},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"logprobs": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_cannot_be_continued_ends_with_an_error(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path, fields: dict[str, Any]
) -> None:
    dying, proxy = start_two(llama_servers, start_proxy, slow_model)
    stream = Listener(proxy, CHAT, max_tokens=4000, **fields)
    stream.wait_for_text(" 4")
    dying.kill()
    last = stream.finish()[-1]
    assert last["error"]["code"] == "backend_failed"


def test_an_answer_that_is_not_streamed_is_made_again(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path
) -> None:
    dying, proxy = start_two(llama_servers, start_proxy, slow_model)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(proxy.post, CHAT, **ASKED[CHAT], max_tokens=60)
        wait_until(dying.is_generating, "it works")
        dying.kill()
        answer = asked.result().json()
    assert answer["choices"][0]["message"]["content"] == counted_to(60)
    assert answer["usage"]["completion_tokens"] == 60


def without_what_differs(answer: requests.Response) -> str:
    """Return the body without its id, its time and its timings."""
    answer.raise_for_status()
    text = re.sub(r'"created":\d+|"id":"[^"]*"', "", answer.text)
    return re.sub(r'("\w*_(ms|second)"):[0-9.e-]+', r"\1", text)


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, NATIVE])
@pytest.mark.parametrize(
    "fields",
    [{"max_tokens": 5}, {"max_tokens": 50, "stop": " 4"}, {"max_tokens": 1, "stop": [" 1"]}],
    ids=["length", "stop", "empty"],
)
def test_a_whole_answer_is_llama_servers_to_the_byte(
    llama_servers: StartLlamas, start_proxy: StartProxy, path: str, fields: dict[str, Any]
) -> None:
    (llama,) = llama_servers(1)
    asked = {**ASKED[path], **fields}
    own, again = (requests.post(llama.url + path, json=asked, timeout=30) for _ in range(2))
    passed = start_proxy(llama.url).post(path, **asked)
    # The first one had to read the prompt.
    assert without_what_differs(passed) == without_what_differs(again)
    assert passed.headers["Content-Type"] == own.headers["Content-Type"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, NATIVE])
def test_a_client_that_leaves_frees_its_slot_though_others_are_served(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path, path: str
) -> None:
    (llama,) = llama_servers(1, model=slow_model)
    proxy = start_proxy(llama.url, HEARTCODE_SLOTS="2")

    def working() -> int:
        return sum(slot["is_processing"] for slot in llama.slots())

    endless = {**ASKED[CHAT], "max_tokens": 30000, "ignore_eos": True}
    with proxy.stream(**endless) as other:
        lines = other.iter_lines()
        next(lines)
        leaving = {**ASKED[path], "max_tokens": 30000, "ignore_eos": True}
        with connect_and_send(proxy, path, leaving):
            wait_until(lambda: working() == 2, "both slots are taken")
        wait_until(lambda: working() == 1, "its slot is free")
        assert next(lines) is not None, "the other one still gets its answer"


@pytest.mark.parametrize(
    "stream", [True, pytest.param(False, marks=pytest.mark.ci)], ids=["stream", "whole"]
)
def test_a_client_that_leaves_during_its_prompt_frees_its_slot(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path, *, stream: bool
) -> None:
    (llama,) = llama_servers(1, model=slow_model)
    proxy = start_proxy(llama.url, HEARTCODE_SLOTS="2")
    # More than a batch each of 2048 tokens; all of it would take half a minute.
    long = [{"role": "user", "content": "a b c d e " * 1600}]
    with proxy.stream(**ASKED[CHAT], max_tokens=30000, ignore_eos=True) as other:
        lines = other.iter_lines()
        next(lines)
        fields = {"messages": long, "stream": stream}
        with connect_and_send(proxy, CHAT, fields):
            wait_until(lambda: sum(s["is_processing"] for s in llama.slots()) == 2, "it reads")
        wait_until(lambda: sum(s["is_processing"] for s in llama.slots()) == 1, "it is free")
        lengths = [int(slot.get("n_prompt_tokens_processed", 0)) for slot in llama.slots()]
        assert max(lengths) < 16000


def test_progress_is_told_only_to_who_asked(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url)
    plain, refused, asked = (
        proxy.post(CHAT, **ASKED[CHAT], max_tokens=3, stream=True, **extra).text
        for extra in ({}, {"return_progress": False}, {"return_progress": True})
    )
    for told in (plain, refused):
        assert "prompt_progress" not in told
        assert told.count("role") == 1
    assert "prompt_progress" in asked


def test_the_clients_own_beginning_is_in_a_whole_answer_as_it_is_in_llama_servers(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    messages = [*ASKED[CHAT]["messages"], {"role": "assistant", "content": " 1 2 3"}]
    own, passed = (
        requests.post(url + CHAT, json={"messages": messages, "max_tokens": 4}, timeout=60).json()
        for url in (llama.url, start_proxy(llama.url).url)
    )
    assert passed["choices"] == own["choices"]
    assert own["choices"][0]["message"]["content"].endswith(counted_to(7).removeprefix(" 1 2 3"))


def test_what_another_endpoint_reads_changes_nothing(
    llama_servers: StartLlamas, start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    """Client libraries send every field that they know; llama-server ignores these here."""
    (llama,) = llama_servers(1)
    cutter = Cutter(llama.url)
    proxy = start_proxy(*(start_upstream(cutter).url for _ in range(2)))
    unused: list[Any] = [None, [], "Hi", [None], 5, {"role": "user", "content": "Hi"}]
    unused += [[{"role": role, "content": "Hi"}] for role in ("user", "assistant")]
    faults = []
    for path in (COMPLETIONS, NATIVE):
        for messages in unused:
            asked = {**ASKED[path], "max_tokens": 6, "messages": messages, "tools": "none"}
            whole = proxy.post(path, **asked).json()
            stream = Listener(proxy, path, **asked)
            stream.finish()
            cutter.cut_after(cutter.recorded[:4])
            resumed = Listener(proxy, path, **asked)
            resumed.finish()
            texts = [text_of(whole), stream.text, resumed.text]
            resumes = proxy.log_line(resumed.request_id)["resumes"]
            if (texts, resumes) != ([counted_to(6)] * 3, 1):
                faults.append((path, messages, texts, resumes))
    assert faults == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
def test_all_of_several_answers_are_counted(
    lasting_llamas: StartLlamas,
    lasting_proxy: StartProxy,
    path: str,
    options: dict[str, Any],
) -> None:
    (llama,) = lasting_llamas(1, slots=3)
    proxy = lasting_proxy(llama.url)
    for stream in (False, True):
        asked = {**ASKED[path], "n": 3, "max_tokens": 5, "stream": stream, **options}
        answer = proxy.post(path, **asked)
        answer.raise_for_status()
        line = proxy.log_line(answer.headers["X-Request-Id"])
        assert line["tokens"] == 15
        assert 3 < line["prompt_tokens"] < 100
