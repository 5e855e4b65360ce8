from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from heartcode.api.app import create_app
from heartcode.runtime.runtime import Runtime
from heartcode.settings import Settings

NAME = socket.gethostname()


@pytest.fixture
def app(settings: Settings) -> Flask:
    """A rig with two backends of which nothing is known yet, with a model for each."""
    return create_app(replace(settings, models=(("stheno", "s"), ("lumimaid",))))


@pytest.fixture
def runtime(app: Flask) -> Runtime:
    found: Runtime = app.extensions["heartcode"]
    return found


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "ok"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        pass


@pytest.fixture
def alive(settings: Settings) -> Iterator[Settings]:
    """A rig with two backends that answer for their health, and never generate."""
    with ExitStack() as stack:
        servers = [stack.enter_context(HTTPServer(("127.0.0.1", 0), Health)) for _ in range(2)]
        for server in servers:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        urls = tuple(f"http://127.0.0.1:{server.server_port}" for server in servers)
        yield replace(settings, backends=urls, status_timeout_s=5.0)


def shown(client: FlaskClient) -> dict[str, Any]:
    (only,) = client.get("/fleet").get_json()["rigs"]
    assert only["name"] == NAME
    found: dict[str, Any] = only
    return found


def states(client: FlaskClient) -> tuple[str, list[str]]:
    rig = shown(client)
    return rig["state"], [backend["state"] for backend in rig["backends"]]


def test_a_rig_that_has_just_started(client: FlaskClient) -> None:
    assert shown(client) == {
        "name": NAME,
        "state": "down",
        "backends": [
            {
                "number": 0,
                "backend": "127.0.0.1:1",
                "model": "stheno",
                "state": "starting",
                "slots": 1,
                "busy": 0,
            },
            {
                "number": 1,
                "backend": "127.0.0.2:1",
                "model": "lumimaid",
                "state": "starting",
                "slots": 1,
                "busy": 0,
            },
        ],
    }


def test_backends_that_answer_fail_and_lose_their_card(alive: Settings, tmp_path: Path) -> None:
    app = create_app(alive)
    client = app.test_client()
    first, second = app.extensions["heartcode"].pool.backends
    first.has_answered()
    assert states(client) == ("degraded", ["up", "starting"])
    second.has_answered()
    assert states(client) == ("up", ["up", "up"])
    second.has_failed("refused")
    assert states(client) == ("degraded", ["up", "down"])
    sign = tmp_path / "llama/1.quarantined"
    sign.parent.mkdir()
    sign.touch()
    assert states(client) == ("degraded", ["up", "gone"])
    first.has_failed("refused")
    assert states(client) == ("down", ["down", "gone"])
    sign.unlink()
    second.has_answered()
    assert states(client) == ("degraded", ["down", "up"])


def test_what_has_ended_since_it_generated_is_down(client: FlaskClient, runtime: Runtime) -> None:
    for backend in runtime.pool.backends:
        backend.has_answered()
    assert states(client) == ("down", ["down", "down"])


def test_a_rig_that_drains_tells_of_its_cards_all_the_same(alive: Settings, tmp_path: Path) -> None:
    app = create_app(alive)
    for backend in app.extensions["heartcode"].pool.backends:
        backend.has_answered()
    (tmp_path / "draining").touch()
    assert states(app.test_client()) == ("draining", ["up", "up"])


def test_a_rig_whose_models_have_no_names(settings: Settings) -> None:
    client = create_app(settings).test_client()
    assert [backend["model"] for backend in shown(client)["backends"]] == ["-", "-"]


def test_lines_for_a_shell(client: FlaskClient) -> None:
    answer = client.get("/fleet?format=text")
    assert answer.mimetype == "text/plain"
    assert answer.get_data(as_text=True) == (
        f"{NAME}\tdown\t0\t127.0.0.1:1\tstheno\tstarting\t0\t1\n"
        f"{NAME}\tdown\t1\t127.0.0.2:1\tlumimaid\tstarting\t0\t1\n"
    )


def test_any_other_form_is_refused(client: FlaskClient) -> None:
    answer = client.get("/fleet?format=xml")
    assert answer.status_code == 400
    assert answer.get_json()["error"]["message"] == "format must be json or text"
