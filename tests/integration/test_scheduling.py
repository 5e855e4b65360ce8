"""Which backend a request gets and how it waits, before real llama-servers that count."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from tests.integration.conftest import StartExporter, StartLlamas, StartProxy, StartUpstream
from tests.integration.misbehaving import Connection, Request
from tests.integration.processes import (
    AS_IT_IS,
    CHAT,
    COMPLETION,
    Llama,
    Proxy,
    connect_and_send,
    counted_to,
    plain,
    wait_until,
)

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "Count, please."}]}
ENDLESS = {**QUESTION, "max_tokens": 30000, "ignore_eos": True, "stream": True}


def ask(proxy: Proxy, fields: dict[str, Any], client: str = "") -> requests.Response:
    headers = {"X-HeartCode-Client": client} if client else {}
    path, body = plain(fields)
    return requests.post(proxy.url + path, json=body, headers=headers, timeout=60)


def backend_of(proxy: Proxy, answer: requests.Response) -> str:
    name: str = proxy.log_line(answer.headers["X-Request-Id"])["backend"]
    return name


def text_of(answer: requests.Response) -> str:
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def talk(number: int, turns: int) -> dict[str, Any]:
    """Return a long conversation; the counting model has answered each turn with " 1 2 3"."""
    messages = [{"role": "system", "content": f"Talk {number}. " + "You count well. " * 400}]
    for turn in range(turns):
        messages.append({"role": "user", "content": f"Count, please, for the {turn}. time."})
        messages.append({"role": "assistant", "content": counted_to(3)})
    return {"messages": messages[:-1], "max_tokens": 3}


@pytest.mark.ci
def test_every_turn_goes_back_to_the_backend_that_holds_the_conversation(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    llamas = llama_servers(3)
    proxy = start_proxy(*(llama.url for llama in llamas))
    homes: dict[int, str] = {}
    for turn in (1, 2, 3):
        # In another order each time, so that taking turns would be seen.
        for number in (0, 1, 2) if turn % 2 else (2, 0, 1):
            answer = ask(proxy, talk(number, turn))
            assert text_of(answer) == counted_to(3)
            home = homes.setdefault(number, backend_of(proxy, answer))
            assert backend_of(proxy, answer) == home
            timings = answer.json()["timings"]
            if turn > 1:
                assert timings["cache_n"] > 10 * timings["prompt_n"]
    assert len(set(homes.values())) == 3


def test_a_burst_beyond_the_slots_waits_and_everyone_is_served(
    llama_servers: StartLlamas, start_proxy: StartProxy, start_exporter: StartExporter
) -> None:
    llamas = llama_servers(2)
    proxy = start_proxy(*(llama.url for llama in llamas), HEARTCODE_SLOTS="2,1")
    exporter = start_exporter(proxy)
    seen: list[tuple[int, ...]] = []
    with watching(llamas, seen), ThreadPoolExecutor(16) as threads:
        burst = [threads.submit(ask, proxy, {**QUESTION, "max_tokens": 200}) for _ in range(16)]
        answers = [future.result() for future in burst]
    assert {text_of(answer) for answer in answers} == {counted_to(200)}
    assert max(busy for busy, _ in seen) <= 2
    assert max(busy for _, busy in seen) <= 1
    waits = [proxy.log_line(answer.headers["X-Request-Id"])["queue_s"] for answer in answers]
    assert sum(wait > 0 for wait in waits) == 13
    assert exporter.value("inference_queue_seconds_count") == 16
    assert exporter.value("inference_queue_seconds_sum") == pytest.approx(sum(waits), abs=0.1)
    assert exporter.value("inference_queue_depth") == 0
    for llama, slots in zip(llamas, (2, 1), strict=True):
        name = llama.url.removeprefix("http://")
        assert exporter.value("backend_slots", backend=name) == slots


@contextmanager
def watching(llamas: list[Llama], seen: list[tuple[int, ...]]) -> Iterator[None]:
    """Note again and again how many slots of each llama-server are busy."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            busy = [sum(slot["is_processing"] for slot in llama.slots()) for llama in llamas]
            seen.append(tuple(busy))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert seen


def test_a_full_queue_is_answered_with_429_and_a_full_wait_with_504(
    llama_servers: StartLlamas, start_proxy: StartProxy, start_exporter: StartExporter
) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url, HEARTCODE_QUEUE_LENGTH="1", HEARTCODE_QUEUE_WAIT_S="3")
    depth = depth_of(start_exporter, proxy)
    with connect_and_send(proxy, CHAT, ENDLESS), ThreadPoolExecutor(1) as threads:
        wait_until(llama.is_generating, "the slot is taken")
        begun = time.monotonic()
        waiting = threads.submit(ask, proxy, QUESTION)
        wait_until(lambda: depth() == 1, "the queue is full")
        refused = ask(proxy, QUESTION)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert 1 <= int(refused.headers["Retry-After"]) <= 3
        # What needs no slot does not wait for one.
        assert requests.get(f"{proxy.url}/health", timeout=5).status_code == 200
        late = waiting.result()
    assert (late.status_code, late.json()["error"]["code"]) == (504, "queue_timeout")
    assert time.monotonic() - begun >= 3


class Gate:
    """An upstream's behaviour: each request is answered when it is let through."""

    def __init__(self) -> None:
        self.order: list[bytes] = []
        self._pass = threading.Semaphore(0)

    def __call__(self, connection: Connection, request: Request) -> None:
        self.order.append(request.body)
        assert self._pass.acquire(timeout=30)
        connection.answer("200 OK", b'{"n": 2}')

    def let_through(self, how_many: int) -> None:
        self._pass.release(how_many)


@pytest.fixture
def gate() -> Gate:
    return Gate()


def submit(threads: ThreadPoolExecutor, proxy: Proxy, client: str) -> Future[requests.Response]:
    return threads.submit(ask, proxy, {"prompt": client}, client)


def test_a_greedy_client_does_not_hold_up_another_one(
    start_proxy: StartProxy,
    start_upstream: StartUpstream,
    start_exporter: StartExporter,
    gate: Gate,
) -> None:
    proxy = start_proxy(start_upstream(gate).url)
    depth = depth_of(start_exporter, proxy)
    with ThreadPoolExecutor(21) as threads:
        greedy = [submit(threads, proxy, "greedy") for _ in range(20)]
        wait_until(lambda: depth() == 19, "twenty have come")
        modest = submit(threads, proxy, "modest")
        wait_until(lambda: depth() == 20, "the other one has come")
        gate.let_through(21)
        assert all(future.result().ok for future in [*greedy, modest])
    # One is being served when it comes; of those that wait, one more is before it at most.
    assert b"modest" in gate.order[1] + gate.order[2]


def test_who_leaves_the_queue_is_gone_and_the_next_takes_the_place(
    start_proxy: StartProxy,
    start_upstream: StartUpstream,
    start_exporter: StartExporter,
    gate: Gate,
) -> None:
    proxy = start_proxy(start_upstream(gate).url, HEARTCODE_QUEUE_LENGTH="2")
    depth = depth_of(start_exporter, proxy)
    with ThreadPoolExecutor(3) as threads:
        first = submit(threads, proxy, "first")
        wait_until(lambda: len(gate.order) == 1, "the slot is taken")
        with connect_and_send(proxy, COMPLETION, {"prompt": "leaves", **AS_IT_IS}):
            wait_until(lambda: depth() == 1, "it waits")
            second = submit(threads, proxy, "second")
            wait_until(lambda: depth() == 2, "another one waits")
            assert ask(proxy, {"prompt": "too many"}).status_code == 429
        wait_until(lambda: depth() == 1, "it has left")
        third = submit(threads, proxy, "third")
        wait_until(lambda: depth() == 2, "there is room again")
        gate.let_through(3)
        assert all(future.result().ok for future in (first, second, third))
    assert not any(b"leaves" in body for body in gate.order)
    assert len(gate.order) == 3
    assert [line["outcome"] for line in proxy.log_lines()].count("disconnected") == 1


def test_a_moved_request_waits_for_the_backend_that_works(
    start_proxy: StartProxy,
    start_upstream: StartUpstream,
    start_exporter: StartExporter,
    gate: Gate,
) -> None:
    dies, fail = threading.Event(), threading.Event()

    def die_late(connection: Connection, _: Request) -> None:
        dies.set()
        assert fail.wait(30)
        connection.reset()

    proxy = start_proxy(
        start_upstream(die_late).url, start_upstream(gate).url, HEARTCODE_QUEUE_LENGTH="0"
    )
    depth = depth_of(start_exporter, proxy)
    with ThreadPoolExecutor(2) as threads:
        moved = submit(threads, proxy, "moved")
        assert dies.wait(30)
        other = submit(threads, proxy, "other")
        wait_until(lambda: len(gate.order) == 1, "both slots are taken")
        fail.set()
        wait_until(lambda: depth() == 1, "the moved one waits, though the queue has no room")
        gate.let_through(2)
        assert moved.result().ok
        assert other.result().ok


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_retry_after_follows_the_speed_that_was_measured(
    start_proxy: StartProxy, start_upstream: StartUpstream, gate: Gate, *, stream: bool
) -> None:
    """A backend that makes two tokens per second needs ten seconds for twenty."""
    timings = {"prompt_n": 10, "prompt_ms": 100, "predicted_n": 400, "predicted_ms": 200_000}
    last = json.dumps({"choices": [], "timings": timings}).encode()

    def be_slow(connection: Connection, _: Request) -> None:
        if stream:
            connection.start_stream()
            connection.chunk(b'data: {"n":1}\n\n')
            connection.chunk(b"data: " + last + b"\n\n")
            connection.end_stream()
        else:
            connection.answer("200 OK", last)

    upstream = start_upstream(be_slow)
    proxy = start_proxy(upstream.url, HEARTCODE_QUEUE_LENGTH="0")
    assert proxy.post(prompt="x", stream=stream).ok
    upstream.behave = gate
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(ask, proxy, {"prompt": "x", "max_tokens": 20})
        wait_until(lambda: len(gate.order) == 1, "the slot is taken")
        refused = ask(proxy, {"prompt": "x"})
        gate.let_through(1)
        assert running.result().ok
    assert refused.status_code == 429
    assert 7 <= int(refused.headers["Retry-After"]) <= 11


@pytest.mark.parametrize("policy", ["least_busy", "round_robin"])
def test_the_other_policies_take_turns(
    start_proxy: StartProxy, start_upstream: StartUpstream, policy: str
) -> None:
    upstreams = [start_upstream(answer_at_once) for _ in range(2)]
    proxy = start_proxy(*(upstream.url for upstream in upstreams), HEARTCODE_POLICY=policy)
    for _ in range(4):  # one conversation
        assert proxy.post(**talk(0, 1)).ok
    assert [len(upstream.requests) for upstream in upstreams] == [2, 2]


def answer_at_once(connection: Connection, _: Request) -> None:
    connection.answer("200 OK", b'{"n": 2}')


def depth_of(start_exporter: StartExporter, proxy: Proxy) -> Callable[[], float]:
    exporter = start_exporter(proxy)
    return lambda: exporter.value("inference_queue_depth")
