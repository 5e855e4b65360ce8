"""scripts/benchmark.py against a real llama-server, and against servers that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.integration import misbehaving
from tests.integration.conftest import StartLlamas, StartUpstream
from tests.integration.misbehaving import Behaviour, Connection, Request
from tests.integration.processes import free_port

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmark.py"
KEY = "sk-not-for-eyes"
TEXT = b'data: {"choices": [{"index": 0, "delta": {"content": " 1"}}]}\n\n'


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, arguments)]


def benchmark(*arguments: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        command(*arguments),
        env={**os.environ, "HEARTCODE_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    assert KEY not in said
    return said


def serve_text(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.chunk(TEXT)
    connection.end_stream()


@pytest.mark.ci
def test_a_real_server_is_measured_drawn_and_compared(
    llama_servers: StartLlamas, tmp_path: Path
) -> None:
    (llama,) = llama_servers(1, slots=4)
    result, picture = tmp_path / "result.json", tmp_path / "plot.png"
    options = ("--requests", "6", "--concurrency", "1,3", "--max-tokens", "20")
    said = benchmark("--url", llama.url, *options, "--json", result, "--plot", picture)
    assert "1 at a time" in said
    assert "3 at a time" in said
    assert "6 answered, 0 failed" in said
    levels = json.loads(result.read_text())["levels"]
    for level in levels:
        assert [answer["tokens"] for answer in level["answers"]] == [20] * 6
        assert all(answer["prompt_tokens"] > 0 for answer in level["answers"])
        assert all(len(answer["gaps_s"]) == 19 for answer in level["answers"])
        assert all(0 < a["first_token_s"] < a["total_s"] for a in level["answers"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    compared = benchmark("--compare", result, result)
    assert "3 at a time" in compared
    assert compared.count("1.00\n") == 2 * 5


def test_what_a_cache_held_is_told(llama_servers: StartLlamas, tmp_path: Path) -> None:
    (llama,) = llama_servers(1, slots=1)
    result = tmp_path / "result.json"
    options = ("--requests", "4", "--concurrency", "1", "--max-tokens", "5", "--prompt", "x" * 400)
    said = benchmark("--url", llama.url, *options, "--json", result)
    answers = json.loads(result.read_text())["levels"][0]["answers"]
    share = sum(a["cached_tokens"] for a in answers) / sum(a["prompt_tokens"] for a in answers)
    assert share > 0.5, "three of four prompts were there already"
    assert f"{share:.0%} of" in said


def test_the_key_goes_to_the_server_and_nowhere_else(
    start_upstream: StartUpstream, tmp_path: Path
) -> None:
    upstream = start_upstream(serve_text)
    result = tmp_path / "result.json"
    benchmark("--url", f"{upstream.url}/v1/", "--requests", "1", "--json", result)
    (request,) = upstream.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in result.read_text()


def refuse(connection: Connection, _: Request) -> None:
    connection.answer("429 Too Many Requests", b'{"error": {"message": "the queue is full"}}')


def tell_an_error(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.chunk(TEXT)
    connection.chunk(b'data: {"error": {"message": "the backend failed"}}\n\n')
    connection.end_stream()


def break_off(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.chunk(TEXT)
    connection.reset()


def end_without_done(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.chunk(TEXT)
    connection.send(b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("behave", "kind"),
    [
        (refuse, "http_429: the queue is full"),
        (tell_an_error, "stream_error: the backend failed"),
        (break_off, "cut"),
        (end_without_done, "cut"),
        (misbehaving.talk_nonsense, "unreachable"),
        (misbehaving.be_silent, "timeout"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_failures_are_counted_by_kind(
    start_upstream: StartUpstream, behave: Behaviour, kind: str
) -> None:
    upstream = start_upstream(behave)
    options = ("--requests", "2", "--concurrency", "2", "--timeout", "1")
    said = benchmark("--url", upstream.url, *options, status=1)
    assert "0 answered, 2 failed" in said
    assert f"2 x {kind}" in said


def test_where_nobody_listens_is_said() -> None:
    said = benchmark("--url", f"http://127.0.0.1:{free_port()}", "--requests", "1", status=1)
    assert "1 x unreachable" in said


def test_an_interrupt_reports_what_was_seen(start_upstream: StartUpstream, tmp_path: Path) -> None:
    held = threading.Event()

    def answer_once(connection: Connection, request: Request) -> None:
        if len(upstream.requests) == 1:
            serve_text(connection, request)
        else:
            held.set()
            connection.wait_until_hung_up()

    upstream = start_upstream(answer_once)
    result = tmp_path / "result.json"
    arguments = ("--url", upstream.url, "--requests", "9", "--concurrency", "1", "--json", result)
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, text=True) as process:
        assert held.wait(60)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "1 answered, 0 failed, interrupted" in said
    assert len(json.loads(result.read_text())["levels"][0]["answers"]) == 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "gateway:4000"], "is no address"),
        (["--requests", "0"], "must be at least 1"),
        (["--concurrency", "2,x"], "--concurrency"),
        (["--key-file", "/nonexistent"], "--key-file: /nonexistent"),
        (["--json", "/nonexistent/result.json"], "there is no directory"),
        (["--compare", "/nonexistent", "/nonexistent"], "/nonexistent: No such file"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str) -> None:
    assert complaint in benchmark(*arguments, status=2)


def test_a_file_of_something_else_is_not_compared(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"levels": []}')
    assert "not a result" in benchmark("--compare", other, other, status=2)
