"""The metrics, through the real exporter's process."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import pytest
import requests
from heartcode.exporter.readings import LLAMA_COUNTERS

from tests.integration import misbehaving
from tests.integration.conftest import StartExporter, StartLlamas, StartProxy, StartUpstream
from tests.integration.misbehaving import Connection, Request, serve_two_tokens
from tests.integration.processes import wait_until


def test_requests_are_counted_across_restarts(
    start_proxy: StartProxy, start_upstream: StartUpstream, start_exporter: StartExporter
) -> None:
    dying, good = start_upstream(misbehaving.reset_at_once), start_upstream(serve_two_tokens)
    proxy = start_proxy(dying.url, good.url)
    exporter = start_exporter(proxy)
    for restarts in range(3):
        proxy.post(messages=[{"role": "user", "content": "x"}])
        requests.post(f"{proxy.url}/v1/completions", data=b"{", timeout=30)
        expected = restarts + 1
        done = {"endpoint": "/v1/chat/completions", "status": "200", "outcome": "completed"}
        wait_until(
            lambda: exporter.value("inference_requests_total", **done) == expected,  # noqa: B023
            f"{expected} requests are counted",
        )
        bad = {"endpoint": "/v1/completions", "status": "400", "outcome": "rejected"}
        assert exporter.value("inference_requests_total", **bad) == expected
        assert exporter.value("inference_duration_seconds_count") == expected
        assert exporter.value("active_requests") == 0
        proxy.stop()
        assert exporter.value("inference_requests_total", **done) == expected
        files = sorted(file.name for file in proxy.metrics_dir.iterdir())
        proxy.start()
    assert files == ["counter_0.db", "histogram_0.db"]
    assert exporter.value("inference_retries_total", reason="broken") >= 1
    assert exporter.value("heartcode_build_info") == 1


def test_times_and_tokens_of_answers_are_told(
    start_proxy: StartProxy, llama_servers: StartLlamas, start_exporter: StartExporter
) -> None:
    (llama,) = llama_servers(1, name="counting")
    proxy = start_proxy(llama.url, HEARTCODE_MODEL="counting", HEARTCODE_SLOTS="2")
    exporter = start_exporter(proxy)
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": " 1" * 200}],
        "max_tokens": 20,
    }
    answers = [proxy.post(**fields), proxy.post(**fields, stream=True)]
    usage = answers[0].json()["usage"]
    assert usage["completion_tokens"] == 20
    assert exporter.value("backend_info", backend=llama.url[7:], model="counting") == 1
    lines = [proxy.log_line(answer.headers["X-Request-Id"]) for answer in answers]
    for line in lines:
        assert (line["model"], line["tokens"]) == ("counting", 20)
        assert line["prompt_tokens"] == usage["prompt_tokens"]
        assert 0 < line["first_token_s"] <= line["duration_s"]
        assert (line["retries"], line["resumes"]) == (0, 0)
    assert lines[0]["cached_tokens"] == 0
    assert lines[1]["cached_tokens"] > 200  # it is the same prompt
    for kind in ("prompt", "cached"):
        told = sum(line[f"{kind}_tokens"] for line in lines)
        assert exporter.value("inference_tokens_total", kind=kind, model="counting") == told
    assert exporter.value("inference_tokens_total", kind="completion", model="counting") == 40
    assert exporter.value("inference_time_to_first_token_seconds_count", model="counting") == 2
    # Tokens that arrive together count as one piece.
    gaps = exporter.value("inference_inter_token_seconds_count", model="counting")
    assert 2 <= gaps <= 44
    assert gaps == exporter.value(
        "inference_inter_token_seconds_bucket", model="counting", le="+Inf"
    )
    assert 0 < exporter.value("inference_inter_token_seconds_sum") < 30


def test_llama_servers_own_counters_are_taken_over_and_a_dead_one_s_are_left_out(
    start_proxy: StartProxy, llama_servers: StartLlamas, start_exporter: StartExporter
) -> None:
    first, second = llama_servers(2)
    names = [llama.url.removeprefix("http://") for llama in (first, second)]
    proxy = start_proxy(first.url, second.url, HEARTCODE_LLAMA_COUNTERS_INTERVAL_S="0.1")
    exporter = start_exporter(proxy)

    def tokens(name: str) -> float:
        return exporter.value("llama_completion_tokens_total", backend=name)

    before = first.ask("/completion", prompt=" 1", n_predict=20)["tokens_predicted"]
    assert before == 20
    wait_until(lambda: tokens(names[0]) >= 20, "its tokens are counted")
    for theirs, reading in LLAMA_COUNTERS.items():
        for name in names:
            assert len(exporter.samples(reading.name, backend=name)) == 1, theirs
    assert exporter.value("llama_sequence_tokens_max", backend=names[0]) >= 20
    build = requests.get(f"{first.url}/props", timeout=30).json()["build_info"]
    assert exporter.value("llama_build_info", backend=names[0], version=build) == 1
    # One that hangs holds up neither a scrape nor the other.
    second.hang()
    first.ask("/completion", prompt=" 1", n_predict=20)
    wait_until(lambda: tokens(names[0]) >= 40, "the other is still asked")
    second.go_on()
    first.kill()
    wait_until(lambda: not exporter.samples("llama_decodes_total", backend=names[0]), "it is gone")
    assert exporter.samples("llama_build_info", backend=names[0]) == []
    assert exporter.samples("llama_decodes_total", backend=names[1])


def test_active_requests_are_right_after_a_crash(
    start_proxy: StartProxy, start_upstream: StartUpstream, start_exporter: StartExporter
) -> None:
    asked = threading.Semaphore(0)

    def be_silent(connection: Connection, _: Request) -> None:
        asked.release()
        connection.wait_until_hung_up()

    proxy = start_proxy(start_upstream(be_silent).url)
    exporter = start_exporter(proxy)

    def ask_until_it_crashes() -> None:
        try:
            proxy.post(prompt="x")
        except requests.ConnectionError:
            return
        raise AssertionError("an answer from a silent backend")

    for crash in ("worker", "master"):
        client = threading.Thread(target=ask_until_it_crashes)
        client.start()
        assert asked.acquire(timeout=30)
        assert exporter.value("active_requests") == 1
        worker = proxy.worker_pid()
        for pid in [worker] if crash == "worker" else [proxy.process.pid, worker]:
            os.kill(pid, signal.SIGKILL)
        client.join(30)
        if crash == "master":
            proxy.process.wait(30)
            proxy.start()
        wait_until(lambda: exporter.value("active_requests") == 0, "nothing is active")
        proxy.wait_until_answers(f"{proxy.url}/livez")


@pytest.mark.ci
def test_a_reload_replaces_the_worker_without_losing_counts(
    start_proxy: StartProxy, start_upstream: StartUpstream, start_exporter: StartExporter
) -> None:
    proxy = start_proxy(start_upstream(serve_two_tokens).url)
    exporter = start_exporter(proxy)
    for reloads in range(4):
        proxy.post(prompt="x")
        expected = reloads + 1
        wait_until(
            lambda: exporter.value("inference_requests_total") == expected,  # noqa: B023
            f"{expected} requests are counted",
        )
        exiting = f"Worker exiting (pid: {proxy.worker_pid()})"
        proxy.process.send_signal(signal.SIGHUP)
        wait_until(
            lambda: exiting in proxy.stderr.read_text(),  # noqa: B023
            "the worker is replaced",
        )
    assert len(list(proxy.metrics_dir.glob("counter_*.db"))) == 2
