from __future__ import annotations

from dataclasses import replace

from heartcode.application import create_app
from heartcode.settings import Settings


def test_a_configured_name_is_shown_without_asking_a_backend(settings: Settings) -> None:
    app = create_app(replace(settings, model="stheno"))
    shown = app.test_client().get("/v1/models").get_json()
    assert shown["object"] == "list"
    assert [(model["id"], model["object"]) for model in shown["data"]] == [("stheno", "model")]
