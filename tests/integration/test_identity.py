"""What each llama-server serves, and how its unit ended: a request meets no other, and goes on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import requests
from heartcode.upstream.identity import identify
from heartcode_models.demo import counting

from tests.integration.conftest import StartExporter, StartLlamas, StartProxy, StartUpstream
from tests.integration.listening import CHAT, COMPLETIONS, Listener, assert_is_one_answer
from tests.integration.misbehaving import be_silent, serve_two_tokens
from tests.integration.processes import Llama, Proxy, counted_to, wait_until

# A probe has 56 tokens here.
PROBED = 60
STOPPING = Path(__file__).parents[2] / "systemd/libexec/heartcode-llama-stopping"


def urls(llamas: Iterable[Llama]) -> list[str]:
    return [llama.url for llama in llamas]


def fleet(proxy: Proxy) -> list[dict[str, Any]]:
    backends: list[dict[str, Any]] = requests.get(f"{proxy.url}/fleet", timeout=30).json()["rigs"][
        0
    ]["backends"]
    return backends


def signs(proxy: Proxy) -> Path:
    directory = proxy.run_dir / "llama"
    directory.mkdir(exist_ok=True)
    return directory


def announce_the_stop(proxy: Proxy, number: int, llama: Llama) -> None:
    """Run what the unit runs before its stop."""
    variables = {
        "PATH": os.environ["PATH"],
        "RUNTIME_DIRECTORY": str(signs(proxy)),
        "HEARTCODE_BACKEND": str(number),
        "SERVICE_RESULT": "success",
        "MAINPID": str(llama.process.pid),
    }
    subprocess.run([str(STOPPING)], env=variables, check=True)


@pytest.fixture(scope="session")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that differs in its file alone: a copy would be the same one."""
    path = tmp_path_factory.mktemp("model") / "other.gguf"
    counting.write_model(path, dead_weight_mib=64)
    with path.open("r+b") as file:
        written = file.read(4096)
        file.seek(written.index(b"Made for tests."))
        file.write(b"Made for other.")
    return path


def test_a_real_llama_server_says_what_it_serves(
    llama_servers: StartLlamas, slow_model: Path, other_file: Path
) -> None:
    def told(model: Path, **options: Any) -> Any:
        (llama,) = llama_servers(1, model=model, **options)
        return identify("127.0.0.1", llama.port, timeout_s=30)

    named, unnamed = told(slow_model, name="stheno|rp", n_ctx=1024), told(slow_model)
    other = told(other_file, name="stheno|rp", n_ctx=2048)
    assert (named.path, named.n_ctx) == (str(slow_model), 1024)
    assert named.written == slow_model.stat().st_mtime_ns
    assert named.is_called(("stheno", "rp"))
    assert unnamed.is_called(("slow",))  # the file's name
    assert named.told.parameters > 0
    assert named.told.size > 64 * 2**20
    assert named.told.ftype != ""
    assert named.has_weights_of(unnamed)
    assert not named.has_weights_of(other)


@pytest.mark.ci
def test_a_stream_outlives_every_stop_that_somebody_wanted(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    start_exporter: StartExporter,
    slow_model: Path,
) -> None:
    llamas = llama_servers(4, model=slow_model)
    proxy = start_proxy(*urls(llamas), HEARTCODE_MAX_MOVES="1")
    exporter = start_exporter(proxy)
    stream = Listener(proxy, CHAT, max_tokens=400)
    for number, text in enumerate((" 5 ", " 20 ", " 35 ")):
        stream.wait_for_text(text)
        announce_the_stop(proxy, number, llamas[number])
        # Not awaited: now and then one hangs over it, until systemd kills it.
        llamas[number].process.terminate()
    assert_is_one_answer(stream.finish())
    assert stream.text == counted_to(400)
    assert exporter.value("inference_resumes_total", reason="stopped") == 3
    assert exporter.value("inference_resumes_total", reason="broken") == 0


def test_a_stream_leaves_what_hangs_while_it_is_stopped(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path
) -> None:
    llamas = llama_servers(2, model=slow_model)
    proxy = start_proxy(*urls(llamas), HEARTCODE_TOKEN_SILENCE_TIMEOUT_S="600")  # noqa: S106
    stream = Listener(proxy, CHAT, max_tokens=100)
    stream.wait_for_text(" 5 ")
    announce_the_stop(proxy, 0, llamas[0])
    llamas[0].hang()
    assert_is_one_answer(stream.finish())
    assert stream.text == counted_to(100)
    assert not (proxy.run_dir / "hung").exists()  # systemd is about to restart it anyway


def test_a_stream_goes_on_with_its_own_model_alone(
    llama_servers: StartLlamas,
    start_proxy: StartProxy,
    start_exporter: StartExporter,
    slow_model: Path,
) -> None:
    (right,) = llama_servers(1, model=slow_model, name="right")
    (wrong,) = llama_servers(1, model=slow_model, name="wrong")
    proxy = start_proxy(right.url, wrong.url, HEARTCODE_MODEL="right")
    exporter = start_exporter(proxy)
    first, second = fleet(proxy)
    assert (first["state"], second["state"]) == ("up", "other_model")
    assert second["serves"] == f"wrong from {slow_model}"
    assert "site.yml" in second["advice"]
    (line,) = proxy.log_lines("other_model")
    assert (line["wanted"], line["serves"]) == ("right", second["serves"])
    assert exporter.value("backend_serves_other_model", backend=wrong.url[7:]) == 1
    assert exporter.value("backend_serves_other_model", backend=right.url[7:]) == 0
    for _ in range(4):
        answer = proxy.post(messages=[{"role": "user", "content": "x"}], max_tokens=2)
        assert proxy.log_line(answer.headers["X-Request-Id"])["backend"] == right.url[7:]

    stream = Listener(proxy, COMPLETIONS, max_tokens=4000)
    stream.wait_for_text(" 5")
    right.kill()
    assert stream.finish()[-1]["error"]["code"] == "backend_failed"
    assert proxy.post(prompt="x").status_code == 503
    assert requests.get(f"{proxy.url}/health", timeout=30).status_code == 503
    wait_until(lambda: not wrong.is_generating(), "the probe is over")
    assert wrong.longest_sequence() < PROBED

    # Whoever comes up as what it should be serves.
    wrong.kill()
    llama_servers(1, model=slow_model, name="right", port=wrong.port)
    wait_until(lambda: proxy.post(prompt=" 1", n_predict=1).ok, "it is the right one now")
    assert fleet(proxy)[1]["serves"] == f"right from {slow_model}"
    assert exporter.value("backend_serves_other_model") == 0


def test_a_stream_goes_on_with_its_own_file_alone(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path, other_file: Path
) -> None:
    dying, other, living = (
        llama_servers(1, model=model, name="m")[0] for model in (slow_model, other_file, slow_model)
    )
    policy = {"HEARTCODE_POLICY": "round_robin"}
    proxy = start_proxy(*urls((dying, other, living)), HEARTCODE_MODEL="m", **policy)
    stream = Listener(proxy, CHAT, max_tokens=100)
    stream.wait_for_text(" 5")
    dying.kill()
    stream.finish()
    assert stream.text == counted_to(100)
    assert other.longest_sequence() < PROBED
    # For a new request both are the model.
    used = set()
    for _ in range(4):
        answer = proxy.post(messages=[{"role": "user", "content": "x"}], max_tokens=2)
        used.add(proxy.log_line(answer.headers["X-Request-Id"])["backend"])
    assert used == {other.url[7:], living.url[7:]}


def test_another_model_at_the_same_port_gets_no_request(
    llama_servers: StartLlamas, start_proxy: StartProxy
) -> None:
    (old,) = llama_servers(1, name="old")
    proxy = start_proxy(old.url, HEARTCODE_MODEL="old", HEARTCODE_STATUS_TIMEOUT_S="30")
    assert proxy.post(prompt=" 1", n_predict=1).ok
    # Idle meanwhile, so that no connection breaks. The unit's sign tells that another was started.
    old.stop()
    (signs(proxy) / "0.waiting").write_text("1\n")
    (new,) = llama_servers(1, name="new", port=old.port)
    answer = proxy.post(prompt=" 1", n_predict=40)
    assert answer.status_code == 503
    assert new.longest_sequence() < PROBED
    wait_until(lambda: fleet(proxy)[0]["state"] == "other_model", "it is known to be another one")


def test_a_prompt_that_is_too_long_for_one_card_goes_to_a_larger(
    llama_servers: StartLlamas, start_proxy: StartProxy, start_exporter: StartExporter
) -> None:
    small, medium, large = (llama_servers(1, n_ctx=n_ctx)[0] for n_ctx in (256, 512, 1024))
    # In turns: whatever the estimate, the small one is asked.
    policy = {"HEARTCODE_POLICY": "round_robin", "HEARTCODE_MAX_MOVES": "0"}
    proxy = start_proxy(*urls((small, medium, large)), **policy)
    exporter = start_exporter(proxy)
    assert [backend["n_ctx"] for backend in fleet(proxy)] == [256, 512, 1024]
    # A character for each token, four times what the proxy takes for one.
    prompt = "7" * 600
    for stream in (False, True) * 3:
        answer = proxy.post("/completion", prompt=prompt, n_predict=2, stream=stream)
        assert answer.status_code == 200, answer.text
        assert proxy.log_line(answer.headers["X-Request-Id"])["backend"] == large.url[7:]
    assert exporter.value("inference_retries_total", reason="context") > 0
    assert exporter.value("inference_retries_total") == exporter.value(
        "inference_retries_total", reason="context"
    )

    asked = exporter.value("inference_retries_total")
    for stream in (False, True):
        answer = proxy.post(COMPLETIONS, prompt="7" * 1500, max_tokens=2, stream=stream)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["type"] == "exceed_context_size_error"
        assert error["n_ctx"] == 1024
        assert "(1024 tokens)" in error["message"]
        assert error["n_prompt_tokens"] > 1500
    # Once told how long it is, the proxy asks nobody in vain.
    assert exporter.value("inference_retries_total") <= asked + 2
    assert fleet(proxy)[0]["state"] == "up"

    # A larger one that is away may come back: that is no fault of the prompt.
    large.kill()
    assert proxy.post("/completion", prompt="7" * 800, n_predict=2).status_code == 503


def test_a_prompt_that_fits_nowhere_is_not_sent(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    upstreams = [start_upstream(serve_two_tokens, n_ctx=n_ctx) for n_ctx in (512, 1024)]
    proxy = start_proxy(*(u.url for u in upstreams), HEARTCODE_TOKEN_BYTES="6")  # noqa: S106
    for path, fields in (
        (COMPLETIONS, {"prompt": "word " * 2000}),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 2000}]}),
        (COMPLETIONS, {"prompt": [1] * 1024}),
    ):
        answer = proxy.post(path, **fields)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "exceed_context_size_error"
        assert "(1024 tokens)" in answer.json()["error"]["message"]
    assert [u.requests for u in upstreams] == [[], []]
    assert proxy.post(COMPLETIONS, prompt="word " * 1000).ok


def test_a_stream_goes_on_where_there_is_room_for_it(
    llama_servers: StartLlamas, start_proxy: StartProxy, slow_model: Path
) -> None:
    dying, small, living = (
        llama_servers(1, model=slow_model, n_ctx=n_ctx)[0] for n_ctx in (2048, 256, 1024)
    )
    proxy = start_proxy(*urls((dying, small, living)))
    stream = Listener(proxy, COMPLETIONS, prompt="7" * 300, max_tokens=100)
    stream.wait_for_text(" 9")
    dying.kill()
    stream.finish()
    assert len(stream.text.split()) > 50
    assert "error" not in stream.events[-1]
    wait_until(lambda: len(proxy.log_lines()) == 1, "the request is in the log")
    (line,) = proxy.log_lines()
    assert line["resumes"] == 1
    assert line["backend"] == living.url[7:]
    assert line["retries"] == 0
    assert small.longest_sequence() < PROBED


def test_a_backend_that_does_not_say_what_it_serves_is_left(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    """One that hangs before it was asked, and one that is something else than a llama-server."""
    hanging, strange = start_upstream(serve_two_tokens), start_upstream(serve_two_tokens)
    hanging.introduce = be_silent
    strange.introduce = lambda connection, _: connection.answer("404 Not Found", b"no")
    good = start_upstream(serve_two_tokens)
    proxy = start_proxy(
        hanging.url,
        strange.url,
        good.url,
        awaited=False,
        HEARTCODE_MODEL="model",
        HEARTCODE_STATUS_TIMEOUT_S="0.2",
    )
    for _ in range(6):
        assert proxy.post(prompt="x", stream=True).ok
    assert (hanging.requests, strange.requests) == ([], [])
    assert len(good.requests) == 6
    wait_until(lambda: fleet(proxy)[1]["state"] == "other_model", "it is known")
    assert fleet(proxy)[1]["serves"] == "a model without a name"
