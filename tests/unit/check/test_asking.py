"""One request of the health check, and all that can go wrong with it."""

from __future__ import annotations

import ast
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from heartcode_check.advice import problem
from heartcode_check.advice import unit as unit_of
from heartcode_check.asking import Answer, Fault, Server, ask
from heartcode_check.cli import main

PACKAGE = Path(__file__).parents[3] / "app" / "heartcode_check"


@pytest.mark.parametrize(
    ("url", "unit"),
    [
        ("http://rig:4000", "nginx"),
        ("http://rig", "nginx"),
        ("https://rig/x", "nginx"),
        ("http://rig:8080", "heartcode"),
        ("http://[::1]:8081", "heartcode-llama@0"),
        ("http://rig:8092", "heartcode-llama@11"),
        ("http://rig:8093", "heartcode"),
        ("http://rig:808199", "heartcode"),
    ],
)
def test_the_advice_names_the_unit_behind_the_port(url: str, unit: str) -> None:
    assert unit_of(url) == unit
    refused = Answer(fault=Fault.CONNECT)
    said = problem(Server(url), refused)
    assert said is not None
    assert f"systemctl status {unit}." in said[1]


def test_unknown_host(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # No resolver is asked: some invent answers.
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert main(["http://nowhere.invalid"]) == 1
    assert "FAIL  health      cannot resolve the host name\n" in capsys.readouterr().out


def test_a_resolver_that_does_not_answer_is_left_after_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, ended = threading.Event(), threading.Event()

    def hangs(*_: object, **__: object) -> None:
        asked.set()
        ended.wait()
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    began = time.monotonic()
    answer = ask(Server("http://slow.invalid", timeout_s=0.05), "/health")
    assert time.monotonic() - began < 30, "far more than the limit"
    assert asked.is_set()
    assert (answer.fault, answer.status) == (Fault.TIME, 0)
    ended.set()


@pytest.fixture
def raw() -> Iterator[socket.socket]:
    """A port at which the test says byte by byte what comes back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


def says(listener: socket.socket, text: bytes) -> threading.Thread:
    """Say it to the next one that asks, and end the connection."""

    def say() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(text)

    thread = threading.Thread(target=say)
    thread.start()
    return thread


def test_what_comes_byte_by_byte_is_left_after_the_time_limit(raw: socket.socket) -> None:
    def drip() -> None:
        connection, _ = raw.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")
            while not is_over.wait(0.02):
                connection.sendall(b" ")

    is_over = threading.Event()
    thread = threading.Thread(target=drip)
    thread.start()
    answer = ask(Server(url(raw), timeout_s=0.2), "/health")
    is_over.set()
    thread.join()
    assert (answer.fault, answer.status, answer.seconds) == (Fault.TIME, 200, 0.2)
    assert answer.text.strip() == ""
    assert answer.body
    said = problem(Server(url(raw), timeout_s=2), answer)
    assert said is not None
    assert said[0] == "not complete after 2 s"
    assert "Try with HEARTCODE_HEALTH_TIMEOUT=8." in said[1]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", Fault.CUT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab", Fault.CUT),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", Fault.CUT),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nab", Fault.CUT),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", Fault.OTHER),
        (b"HTTP/1.1 200 OK\r\n\r\nab", None),
    ],
)
def test_an_answer_that_ends_too_early(
    raw: socket.socket, text: bytes, fault: Fault | None
) -> None:
    thread = says(raw, text)
    answer = ask(Server(url(raw), timeout_s=30), "/health")
    thread.join()
    assert answer.fault is fault
    assert answer.body == (b"ab" if b"ab" in text else b"")


def test_what_speaks_no_http_is_told(raw: socket.socket) -> None:
    thread = says(raw, b"SSH-2.0-OpenSSH_9.2p1\r\n")
    server = Server(url(raw))
    answer = ask(server, "/health")
    thread.join()
    assert problem(server, answer) == ("the answer is not HTTP: SSH-2.0-OpenSSH_9.2p1\r\n", "")


def test_a_server_is_printed_without_its_key() -> None:
    assert "sk-" not in repr(Server("http://rig:8080", "sk-secret"))


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.stem)
def test_it_needs_nothing_but_an_older_python(file: Path) -> None:
    tree = ast.parse(file.read_text(), feature_version=(3, 9))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names - {"heartcode_check"} == set()
