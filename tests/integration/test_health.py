"""Which backends are believed to work: llama-servers that stand still, upstreams that lie."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration import misbehaving
from tests.integration.conftest import StartExporter, StartLlamas, StartProxy, StartUpstream
from tests.integration.listening import CHAT, COMPLETIONS, Listener, assert_is_one_answer
from tests.integration.misbehaving import Behaviour, Connection, Request, serve_two_tokens
from tests.integration.processes import (
    AS_IT_IS,
    COMPLETION,
    Llama,
    Proxy,
    connect_and_send,
    content,
    counted_to,
    free_port,
    wait_until,
)

# A tenth of the defaults and less; the limits of single streams stay as long as they are, so that
# they are not what moves a stream on.
WATCHFUL = {
    "HEARTCODE_SUSPECT_S": "0.5",
    "HEARTCODE_PROBE_TIMEOUT_S": "3",
    "HEARTCODE_PROBE_PAUSE_S": "0.2",
    "HEARTCODE_PROBE_PAUSE_MAX_S": "0.5",
}
# About three seconds of work in batches of a tenth of a second.
LONG_PROMPT: list[dict[str, str]] = [{"role": "user", "content": "a b c d e " * 150}]


def health(proxy: Proxy) -> tuple[int, int | None]:
    """Return the status and how many backends are up."""
    answer = requests.get(f"{proxy.url}/health", timeout=30)
    return answer.status_code, answer.json().get("backends_up")


def is_hung(proxy: Proxy, number: int) -> bool:
    return (proxy.run_dir / "hung" / str(number)).exists()


@pytest.mark.parametrize(
    ("path", "hang"),
    [
        (CHAT, Llama.hang),
        pytest.param(COMPLETIONS, Llama.hang, marks=pytest.mark.ci),
        pytest.param(CHAT, Llama.hang_amid_its_work, marks=pytest.mark.ci),
    ],
)
def test_streams_count_on_when_their_llama_server_hangs(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    start_exporter: StartExporter,
    slow_model: Path,
    path: str,
    *,
    hang: Callable[[Llama], None],
) -> None:
    hanging, living = llamas = llama_servers(2, model=slow_model, slots=10)
    proxy = start_proxy(
        *(llama.url for llama in llamas),
        HEARTCODE_SLOTS="10",
        HEARTCODE_POLICY="least_busy",
        **WATCHFUL,
    )
    exporter = start_exporter(proxy)
    streams = [Listener(proxy, path, max_tokens=150) for _ in range(10)]
    for stream in streams:
        stream.wait_for_text(" 4")
    hang(hanging)
    for stream in streams:
        stream.finish()
        assert_is_one_answer(stream.events)
    assert [stream.text for stream in streams] == [counted_to(150)] * 10
    # Half of them, unless one was done before the last had begun.
    assert 1 < exporter.value("inference_resumes_total", reason="silent") <= 5
    assert exporter.value("backend_hangs_total") == 1
    assert exporter.value("backend_revivals_total") == 1
    assert (is_hung(proxy, 0), is_hung(proxy, 1)) == (True, False)
    assert health(proxy) == (200, 1)
    assert not living.is_generating()


@pytest.mark.parametrize(
    "stream", [True, pytest.param(False, marks=pytest.mark.ci)], ids=["stream", "whole"]
)
@pytest.mark.parametrize("path", [CHAT, pytest.param(COMPLETION, marks=pytest.mark.ci)])
def test_a_prompt_moves_on_when_its_llama_server_hangs(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    slow_model: Path,
    path: str,
    *,
    stream: bool,
) -> None:
    llamas = llama_servers(2, model=slow_model, batch=64)
    proxy = start_proxy(*(llama.url for llama in llamas), **WATCHFUL)
    asked: dict[str, Any] = {"max_tokens": 5, "stream": stream}
    if path == CHAT:
        asked["messages"] = LONG_PROMPT
    else:
        asked["prompt"] = LONG_PROMPT[0]["content"]
    answers: list[requests.Response] = []
    client = threading.Thread(target=lambda: answers.append(proxy.post(path, **asked)))
    client.start()
    wait_until(llamas[0].is_generating, "the prompt is read")
    llamas[0].hang()
    client.join(60)
    (answer,) = answers
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.text
    assert " 1" in answer.text
    line = proxy.log_line(answer.headers["X-Request-Id"])
    assert line["backend"] == llamas[1].url.removeprefix("http://")
    assert is_hung(proxy, 0)


def test_an_idle_llama_server_that_hangs_is_known_before_somebody_asks_it(
    llama_servers: StartLlamas, start_proxy: StartProxy, start_exporter: StartExporter
) -> None:
    llamas = llama_servers(2)
    hanging, living = llamas
    proxy = start_proxy(*(llama.url for llama in llamas), **WATCHFUL, HEARTCODE_PROBE_IDLE_S="0.5")
    exporter = start_exporter(proxy)
    assert health(proxy) == (200, 2)
    hanging.hang()
    wait_until(lambda: is_hung(proxy, 0), "the probe has had no answer")
    assert health(proxy) == (200, 1)
    name = hanging.url.removeprefix("http://")
    assert exporter.value("backend_up", backend=name) == 0
    for _ in range(3):
        answer = proxy.post(messages=[{"role": "user", "content": "x"}], max_tokens=3)
        line = proxy.log_line(answer.headers["X-Request-Id"])
        assert line["backend"] == living.url.removeprefix("http://")
    assert exporter.value("inference_retries_total") == 0

    hanging.go_on()
    wait_until(lambda: health(proxy) == (200, 2), "a probe has brought a token")
    assert exporter.value("backend_up", backend=name) == 1
    (hung, back), revivals = (
        [line for line in proxy.log_lines("backend") if line["backend"] == name][1:3],
        proxy.log_lines("revival"),
    )
    assert (hung["up"], hung["why"], back["up"]) == (False, "it hangs", True)
    assert [line["backend"] for line in revivals] == [name]


def test_a_rig_of_which_every_llama_server_hangs_is_not_ready(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (llama,) = llama_servers(1)
    proxy = start_proxy(llama.url, **WATCHFUL, HEARTCODE_PROBE_IDLE_S="0.5")
    llama.hang()
    wait_until(lambda: health(proxy)[0] == 503, "it is known")
    assert is_hung(proxy, 0)
    llama.go_on()
    wait_until(lambda: health(proxy) == (200, 1), "it works again")


def test_an_idle_llama_server_that_ends_is_known_before_somebody_asks_it(
    llama_servers: StartLlamas, start_proxy: StartProxy, start_exporter: StartExporter
) -> None:
    """With the time that a token may be away as it is on a rig: five minutes."""
    ending, staying = llama_servers(2)
    proxy = start_proxy(ending.url, staying.url)
    exporter = start_exporter(proxy)
    assert health(proxy) == (200, 2)
    ending.kill()
    wait_until(lambda: health(proxy) == (200, 1), "it is missed")
    (rig,) = requests.get(f"{proxy.url}/fleet", timeout=30).json()["rigs"]
    assert [backend["state"] for backend in rig["backends"]] == ["down", "up"]
    assert proxy.post(prompt="x", n_predict=1).ok
    assert exporter.value("inference_retries_total") == 0
    staying.kill()
    wait_until(lambda: health(proxy) == (503, None), "that one, too")
    assert not is_hung(proxy, 0)


def never_generate(connection: Connection, request: Request) -> None:
    """What a llama-server was seen to do after a CUDA error."""
    if request.path == "/slots":
        connection.answer("200 OK", b'[{"id": 0, "is_processing": false}]')
    elif request.path == "/lora-adapters":
        connection.answer("200 OK", b"[]")
    else:
        connection.wait_until_hung_up()


@pytest.mark.parametrize(
    "behave",
    [
        never_generate,
        misbehaving.be_silent,
        misbehaving.be_loading,
        misbehaving.reset_at_once,
        misbehaving.talk_nonsense,
        misbehaving.answer_500_with_html,
        misbehaving.never_end_the_headers,
        lambda c, _: c.answer("200 OK", b'{"content": "", "timings": {"predicted_n": 0}}'),
        lambda c, _: c.answer("200 OK", b"{"),
    ],
)
def test_health_does_not_believe_what_generates_nothing(
    start_proxy: StartProxy, start_upstream: StartUpstream, behave: Behaviour
) -> None:
    upstream = start_upstream(lambda c, _: c.answer("200 OK", b'{"status": "ok"}'))
    upstream.behave_when_probed = behave
    silent = behave in (never_generate, misbehaving.be_silent)
    variables = {**WATCHFUL, "HEARTCODE_PROBE_TIMEOUT_S": "0.5"} if silent else WATCHFUL
    proxy = start_proxy(upstream.url, awaited=False, **variables)
    assert health(proxy) == (503, None)
    wait_until(lambda: bool(proxy.log_lines("backend")), "there is a verdict")
    assert health(proxy) == (503, None)
    wait_until(lambda: len(upstream.probes) >= 3, "it is probed again and again")
    # What answers, or is not there, is no case for a restart.
    assert is_hung(proxy, 0) == silent
    upstream.behave_when_probed = misbehaving.generate_a_token
    wait_until(lambda: health(proxy) == (200, 1), "it generates")


def test_what_refuses_connections_is_left_to_systemd(start_proxy: StartProxy) -> None:
    proxy = start_proxy(f"http://127.0.0.1:{free_port()}", **WATCHFUL)
    (line,) = proxy.log_lines("backend")
    assert (line["up"], line["why"].split(":")[0]) == (False, "unreachable")
    assert health(proxy) == (503, None)
    assert not is_hung(proxy, 0)


@contextmanager
def slowed_down(llama: Llama) -> Iterator[None]:
    """Let it work a fifth of the time."""
    done = threading.Event()

    def stop_and_go() -> None:
        while not done.wait(0.05):
            llama.hang()
            done.wait(0.2)
            llama.go_on()

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.ci
@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_a_slow_prompt_is_left_alone(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    start_exporter: StartExporter,
    slow_model: Path,
    path: str,
) -> None:
    """It takes longer than all limits together; with COMPLETION nothing tells of progress."""
    llamas = llama_servers(2, model=slow_model, batch=64)
    variables = {**WATCHFUL, "HEARTCODE_SUSPECT_S": "0.1"}
    proxy = start_proxy(*(llama.url for llama in llamas), **variables)
    exporter = start_exporter(proxy)
    text = "a b c d e " * 100
    asked: dict[str, dict[str, Any]] = {
        CHAT: {"messages": [{"role": "user", "content": text}]},
        COMPLETION: {"prompt": text, **AS_IT_IS},
    }
    body = {**asked[path], "max_tokens": 5}
    with slowed_down(llamas[0]):
        answer = requests.post(proxy.url + path, json=body, timeout=120)
    line = proxy.log_line(answer.headers["X-Request-Id"])
    assert line["backend"] == llamas[0].url.removeprefix("http://")
    assert line["duration_s"] > 0.1 + 3
    assert exporter.value("backend_probes_total", result="batch") > 2
    assert exporter.value("backend_hangs_total") == 0
    assert exporter.value("inference_retries_total") == 0
    assert not is_hung(proxy, 0)


def test_what_is_said_between_two_batches_shows_that_batches_end(
    llama_servers: StartLlamas, slow_model: Path
) -> None:
    """At the pinned version /slots is answered in the middle of a batch, and proves nothing."""
    (llama,) = llama_servers(1, model=slow_model)

    prompt = LONG_PROMPT[0]["content"]
    asked = threading.Thread(
        target=llama.ask, args=(COMPLETION,), kwargs={"prompt": prompt, "n_predict": 1}
    )
    asked.start()
    wait_until(llama.is_generating, "the only batch of the prompt is computed")
    requests.get(f"{llama.url}/lora-adapters", timeout=60).raise_for_status()
    assert not llama.is_generating()
    asked.join(60)


def test_a_llama_server_that_works_for_others_is_not_asked_for_a_token(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    start_exporter: StartExporter,
    slow_model: Path,
) -> None:
    """As after a reload of the proxy: all slots may be taken for longer than any limit."""
    (llama,) = llama_servers(1, model=slow_model, slots=1)
    stream = llama.events(CHAT, messages=[{"role": "user", "content": "x"}], max_tokens=400)
    assert next(stream)
    proxy = start_proxy(llama.url, **WATCHFUL, HEARTCODE_SLOTS="1", HEARTCODE_PROBE_IDLE_S="0.1")
    exporter = start_exporter(proxy)
    assert health(proxy) == (200, 1)
    wait_until(lambda: exporter.value("backend_probes_total", result="batch") > 3, "it is asked")
    assert exporter.value("backend_probes_total", result="token") == 0
    assert llama.is_generating()
    assert "".join(content(event) for event in stream) == counted_to(400)
    wait_until(lambda: exporter.value("backend_probes_total", result="token") > 0, "it is idle")


def test_probes_and_requests_together_never_overfill_a_backend(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    lock, at_work, most = threading.Lock(), 0, 0

    def after_work(behave: Behaviour) -> Behaviour:
        """Answer when the work is done: once it has the answer, the proxy may send the next."""

        def worked(connection: Connection, request: Request) -> None:
            nonlocal at_work, most
            with lock:
                at_work += 1
                most = max(most, at_work)
            time.sleep(0.05)
            with lock:
                at_work -= 1
            behave(connection, request)

        return worked

    upstream = start_upstream(after_work(serve_two_tokens))
    upstream.behave_when_probed = after_work(misbehaving.generate_a_token)
    eager = {**WATCHFUL, "HEARTCODE_PROBE_IDLE_S": "0.001", "HEARTCODE_SUSPECT_S": "60"}
    proxy = start_proxy(upstream.url, HEARTCODE_SLOTS="1", **eager)
    clients = [
        threading.Thread(target=lambda: [proxy.post(prompt="x") for _ in range(20)])
        for _ in range(3)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert len(upstream.requests) == 60
    wait_until(lambda: len(upstream.probes) > 3, "it is probed as well")
    assert most == 1


def test_a_backend_at_work_is_not_probed(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    go_on = threading.Event()

    def wait(connection: Connection, request: Request) -> None:
        assert go_on.wait(30)
        serve_two_tokens(connection, request)

    busy, idle = start_upstream(wait), start_upstream(serve_two_tokens)
    eager = {**WATCHFUL, "HEARTCODE_PROBE_IDLE_S": "0.2", "HEARTCODE_SUSPECT_S": "60"}
    proxy = start_proxy(busy.url, idle.url, HEARTCODE_SLOTS="2", **eager)
    with connect_and_send(proxy, COMPLETION, {"prompt": "x", **AS_IT_IS}):
        wait_until(lambda: bool(busy.requests), "it works")
        before, probed = len(busy.probes), len(idle.probes)
        wait_until(lambda: len(idle.probes) >= probed + 3, "the other one is probed")
        assert len(busy.probes) == before
        go_on.set()
    wait_until(lambda: len(busy.probes) > before, "it is idle")


@pytest.mark.ci
def test_a_proxy_that_stood_still_itself_blames_nobody(
    start_proxy: StartProxy, start_upstream: StartUpstream, start_exporter: StartExporter
) -> None:
    def answer_in_time(connection: Connection, request: Request) -> None:
        time.sleep(0.3)
        misbehaving.generate_a_token(connection, request)

    upstream = start_upstream(serve_two_tokens)
    proxy = start_proxy(
        upstream.url,
        **{**WATCHFUL, "HEARTCODE_PROBE_TIMEOUT_S": "1"},
        HEARTCODE_PROBE_IDLE_S="0.1",
    )
    exporter = start_exporter(proxy)
    upstream.behave_when_probed = answer_in_time
    before = len(upstream.probes)
    wait_until(lambda: len(upstream.probes) > before, "a probe is under way")
    worker = proxy.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    time.sleep(2.5)  # longer than the limit and what is too late
    os.kill(worker, signal.SIGCONT)
    before = len(upstream.probes)
    wait_until(lambda: len(upstream.probes) >= before + 3, "the next probes are under way")
    assert exporter.value("backend_hangs_total") == 0
    assert health(proxy) == (200, 1)
    assert not is_hung(proxy, 0)


@pytest.mark.ci
def test_questions_beside_the_loop_do_not_hide_that_it_hangs(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    """SillyTavern counts tokens all the time; llama-server does that in another thread."""

    def only_tokenize(connection: Connection, request: Request) -> None:
        if request.path == "/tokenize":
            connection.answer("200 OK", b'{"tokens": []}')
        else:
            connection.wait_until_hung_up()

    upstream = start_upstream(only_tokenize)
    proxy = start_proxy(upstream.url, **WATCHFUL)
    upstream.behave_when_probed = misbehaving.be_silent
    with connect_and_send(proxy, COMPLETION, {"prompt": "x", **AS_IT_IS}):
        wait_until(lambda: bool(upstream.requests), "it works")

        def is_known() -> bool:
            proxy.post("/tokenize", content="x")  # one that is under way then fails as well
            return is_hung(proxy, 0)

        wait_until(is_known, "it is judged")


def test_a_worker_that_ends_leaves_nothing_behind(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    upstream = start_upstream(serve_two_tokens)
    upstream.behave_when_probed = misbehaving.be_silent
    proxy = start_proxy(upstream.url, awaited=False)
    wait_until(lambda: bool(upstream.probes), "a probe is under way")
    assert proxy.stop() == 0
    assert "Traceback" not in proxy.stderr.read_text()
