from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from heartcode import __version__
from heartcode.api.app import create_app
from heartcode.runtime.runtime import Runtime
from heartcode.settings import Settings
from heartcode.upstream.identity import Identity, Told

NAME = socket.gethostname()


@pytest.fixture
def app(settings: Settings) -> Flask:
    """A rig with two backends of which nothing is known yet, with a model for each."""
    return create_app(replace(settings, models=(("stheno", "s"), ("lumimaid",))))


@pytest.fixture
def runtime(app: Flask) -> Runtime:
    found: Runtime = app.extensions["heartcode"]
    return found


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
        "version": __version__,
        "state": "down",
        "backends": [
            {
                "number": 0,
                "backend": "127.0.0.1:1",
                "model": "stheno",
                "state": "starting",
                "slots": 1,
                "busy": 0,
                "n_ctx": None,
                "serves": None,
                "version": "-",
            },
            {
                "number": 1,
                "backend": "127.0.0.2:1",
                "model": "lumimaid",
                "state": "starting",
                "slots": 1,
                "busy": 0,
                "n_ctx": None,
                "serves": None,
                "version": "-",
            },
        ],
    }


def test_backends_that_answer_fail_and_lose_their_card(settings: Settings, tmp_path: Path) -> None:
    app = create_app(settings)
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


def test_a_backend_of_several_cards_says_which_of_them_is_gone(
    settings: Settings, tmp_path: Path
) -> None:
    cards = (("GPU-a", "GPU-b"), ("GPU-c",))
    app = create_app(replace(settings, gpu_uuids=cards))
    for backend in app.extensions["heartcode"].pool.backends:
        backend.has_answered()
    client = app.test_client()
    group, alone = shown(client)["backends"]
    assert (group["cards"], alone["cards"]) == (["GPU-a", "GPU-b"], ["GPU-c"])
    assert "gone" not in group
    sign = tmp_path / "llama/0.quarantined"
    sign.parent.mkdir()
    sign.write_text("GPU-b: the GPU is lost\n")
    group, alone = shown(client)["backends"]
    assert (group["state"], group["gone"]) == ("gone", "GPU-b: the GPU is lost")
    assert (alone["state"], "gone" in alone) == ("up", False)


def test_a_backend_that_serves_another_model(client: FlaskClient, runtime: Runtime) -> None:
    first, second = runtime.pool.backends
    for backend in (first, second):
        backend.has_answered()
        told = Told(names=frozenset({"stheno"}), n_ctx=4096)
        backend.served.note(Identity(told=told, path="/models/s.gguf"), 0)
    assert states(client) == ("degraded", ["up", "other_model"])
    shown_first, shown_second = shown(client)["backends"]
    assert (shown_first["serves"], shown_first["n_ctx"]) == ("stheno from /models/s.gguf", 4096)
    assert "advice" not in shown_first
    assert "site.yml" in shown_second["advice"]
    health = client.get("/health").get_json()
    assert (health["backends_up"], health["backends"]) == (1, 2)
    assert "1 of 2 backends serve another model" in health["warning"]
    answer = client.post("/v1/completions", json={"prompt": "x", "model": "lumimaid"})
    assert answer.status_code == 503
    assert "serves another one now" in answer.get_json()["error"]["message"]

    # What it is now is what counts.
    told = Told(names=frozenset({"lumimaid"}))
    second.served.note(Identity(told=told), 0)
    assert states(client) == ("up", ["up", "up"])
    assert "warning" not in client.get("/health").get_json()
    for backend in (first, second):
        backend.served.note(Identity(told=Told(names=frozenset({"third"}))), 0)
    answer = client.get("/health")
    assert answer.status_code == 503
    assert "site.yml" in answer.get_json()["error"]["message"]


def test_a_rig_that_drains_tells_of_its_cards_all_the_same(
    settings: Settings, tmp_path: Path
) -> None:
    app = create_app(settings)
    for backend in app.extensions["heartcode"].pool.backends:
        backend.has_answered()
    (tmp_path / "draining").touch()
    assert states(app.test_client()) == ("draining", ["up", "up"])


def test_what_a_backend_says_of_itself(settings: Settings) -> None:
    app = create_app(settings)
    first, _ = app.extensions["heartcode"].pool.backends
    first.served.note(Identity(build="b11312-0c1e57098"), 0)
    told = shown(app.test_client())["backends"]
    assert [backend["version"] for backend in told] == ["b11312-0c1e57098", "-"]


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
