from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from heartcode.api.app import create_app
from heartcode.settings import Settings

STHENO = ("stheno", "stheno-v3.4", "sao10k/stheno")
LUMIMAID = ("lumimaid",)


@pytest.fixture
def two_models(settings: Settings) -> FlaskClient:
    """A rig whose first backend serves Stheno and whose second serves Lumimaid."""
    return create_app(replace(settings, models=(STHENO, LUMIMAID))).test_client()


def test_configured_models_are_shown_without_asking_a_backend(two_models: FlaskClient) -> None:
    for path in ("/v1/models", "/models"):
        shown = two_models.get(path).get_json()
        assert shown["object"] == "list"
        assert [(m["id"], m["object"]) for m in shown["data"]] == [
            ("stheno", "model"),
            ("lumimaid", "model"),
        ]


@pytest.mark.parametrize("name", STHENO)
def test_one_model_is_shown_by_each_of_its_names(two_models: FlaskClient, name: str) -> None:
    shown = two_models.get(f"/v1/models/{name}").get_json()
    assert shown["id"] == "stheno"
    assert shown["aliases"] == list(STHENO[1:])


def test_an_unknown_model_is_answered_as_openai_does(two_models: FlaskClient) -> None:
    prompt = {"prompt": "x", "model": "gpt-4"}
    for answer in (
        two_models.get("/v1/models/gpt-4"),
        two_models.post("/v1/completions", json=prompt),
        two_models.get("/props?model=gpt-4"),
    ):
        assert answer.status_code == 404
        assert answer.get_json() == {
            "error": {
                "message": "The model 'gpt-4' does not exist.",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
        }


@pytest.mark.parametrize("model", [1, ["stheno"], {"id": "stheno"}, True])
def test_a_model_that_is_no_name_is_unknown(two_models: FlaskClient, model: Any) -> None:
    answer = two_models.post("/v1/completions", json={"prompt": "x", "model": model})
    assert answer.status_code == 404


@pytest.mark.parametrize("model", [{}, {"model": ""}, {"model": None}, {"model": "stheno-v3.4"}])
def test_known_names_reach_for_a_backend(two_models: FlaskClient, model: dict[str, Any]) -> None:
    answer = two_models.post("/v1/completions", json={"prompt": "x", **model})
    assert answer.get_json()["error"]["code"] == "backend_unavailable"
