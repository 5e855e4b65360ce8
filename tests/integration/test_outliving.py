"""Streams whose rig is lost: the gateway's relay has another one go on, and nobody sees it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from heartcode_models.demo import counting

from tests.integration.conftest import StartLlamas
from tests.integration.listening import (
    CHAT,
    COMPLETIONS,
    NATIVE,
    Listener,
    assert_is_one_answer,
)
from tests.integration.processes import GatewayRelay, Llama, Proxy, counted_to

StartRigs = Callable[..., tuple[GatewayRelay, list[Proxy]]]


@pytest.fixture
def start_rigs(cleanup: ExitStack, tmp_path: Path) -> StartRigs:
    """Start a rig for each list of llama-servers, and the relay of a gateway before them."""

    def start(*rigs: list[Llama], **variables: str) -> tuple[GatewayRelay, list[Proxy]]:
        proxies = []
        for number, llamas in enumerate(rigs):
            proxy = Proxy(
                tmp_path / f"rig{number}",
                [llama.url for llama in llamas],
                HEARTCODE_SLOTS="20",
                HEARTCODE_MODEL="counting",
            )
            cleanup.callback(proxy.kill)
            proxies.append(proxy)
        relay = GatewayRelay(tmp_path / "relay", [proxy.url for proxy in proxies], **variables)
        cleanup.callback(relay.kill)
        return relay, proxies

    return start


def kill(proxy: Proxy) -> None:
    """SIGKILL to master and worker at once: the kernel closes their connections."""
    for pid in (proxy.process.pid, *proxy.workers()):
        os.kill(pid, signal.SIGKILL)


def stand_still(proxy: Proxy) -> None:
    """Say nothing more, and close nothing: as when the power is cut."""
    for pid in (proxy.process.pid, *proxy.workers()):
        os.kill(pid, signal.SIGSTOP)


@pytest.mark.parametrize(
    ("path", "end"), [(CHAT, kill), pytest.param(COMPLETIONS, stand_still, marks=pytest.mark.ci)]
)
def test_eight_streams_count_on_when_their_rig_is_lost(
    llama_servers: StartLlamas,
    start_rigs: StartRigs,
    slow_model: Path,
    path: str,
    end: Callable[[Proxy], None],
) -> None:
    llamas = llama_servers(2, model=slow_model, slots=20, name="counting")
    relay, (dying, _) = start_rigs(*([llama] for llama in llamas))
    options = {"max_tokens": 60, "stream_options": {"include_usage": True}}
    undisturbed = Listener(relay, path, **options)
    (expected,) = (event["usage"] for event in undisturbed.finish() if event.get("usage"))
    streams = [Listener(relay, path, **options) for _ in range(8)]
    for stream in streams:
        stream.wait_for_text(" 4")
    end(dying)
    for stream in streams:
        stream.finish()
    assert [stream.text for stream in streams] == [counted_to(60)] * 8
    for stream in streams:
        assert_is_one_answer(stream.events)
        (usage,) = (event["usage"] for event in stream.events if event.get("usage"))
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert usage[name] == expected[name]
    reason = "broken" if end is kill else "silent"
    assert relay.metric("gateway_resumes_total", reason=reason) == 8


@pytest.mark.parametrize("path", [CHAT, pytest.param(NATIVE, marks=pytest.mark.ci)])
def test_one_answer_comes_of_two_rigs_that_lose_a_card_each(
    llama_servers: StartLlamas, start_rigs: StartRigs, slow_model: Path, path: str
) -> None:
    llamas = llama_servers(4, model=slow_model, name="counting")
    relay, (first, _) = start_rigs(llamas[:2], llamas[2:])
    options = {"max_tokens": 400, "stream_options": {"include_usage": True}}
    undisturbed = Listener(relay, path, **options).finish()
    stream = Listener(relay, path, **options)
    stream.wait_for_text(" 9 ")
    working(llamas[:2]).kill()  # the rig goes on with it itself
    stream.wait_for_text(" 50 ")
    kill(first)
    stream.wait_for_text(" 100 ")
    working(llamas[2:]).kill()  # so does the other one
    stream.finish()
    assert stream.text == counted_to(400)
    if path == NATIVE:
        assert [e["tokens_predicted"] for e in stream.events[:-1]] == list(range(1, 401))
        told = ("prompt", "tokens_predicted", "tokens_evaluated", "stop_type")
        assert {n: stream.events[-1][n] for n in told} == {n: undisturbed[-1][n] for n in told}
        return
    assert_is_one_answer(stream.events)
    usage, expected = (
        next(event["usage"] for event in told if event.get("usage"))
        for told in (stream.events, undisturbed)
    )
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert usage[name] == expected[name]


def working(llamas: list[Llama]) -> Llama:
    (one,) = (each for each in llamas if each.process.poll() is None and each.is_generating())
    return one


def test_no_other_file_goes_on_with_an_answer(
    llama_servers: StartLlamas, start_rigs: StartRigs, slow_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.gguf"
    counting.write_model(other, dead_weight_mib=65)
    (mine,) = llama_servers(1, model=slow_model, name="counting")
    (its,) = llama_servers(1, model=other, name="counting")
    relay, (dying, _) = start_rigs([mine], [its])
    stream = Listener(relay, CHAT, max_tokens=2000)
    stream.wait_for_text(" 9 ")
    kill(dying)
    last = stream.finish()[-1]
    assert last["error"]["code"] == "rig_failed"
    assert counted_to(2000).startswith(stream.text)
    assert not its.is_generating()


def test_what_cannot_be_resumed_ends_with_an_error(
    llama_servers: StartLlamas, start_rigs: StartRigs, slow_model: Path
) -> None:
    llamas = llama_servers(2, model=slow_model, name="counting")
    relay, (dying, _) = start_rigs(*([llama] for llama in llamas))
    stream = Listener(relay, CHAT, max_tokens=2000, logprobs=True)
    stream.wait_for_text(" 9 ")
    kill(dying)
    assert stream.finish()[-1]["error"]["code"] == "rig_failed"
