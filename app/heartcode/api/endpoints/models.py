"""Which models this rig serves (`/v1/models`)."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from heartcode.api.context import current_runtime
from heartcode.errors import ApiError
from heartcode.relay import ask_all
from heartcode.routing.model_registry import Model

bp = Blueprint("models", __name__)


@bp.get("/v1/models")
@bp.get("/models")
def models() -> Response:
    """List the rig's models, the default first."""
    return jsonify(object="list", data=_shown_models())


@bp.get("/v1/models/<path:name>")
@bp.get("/models/<path:name>")
def model(name: str) -> Response:
    """Show one model, by its id or by another name."""
    for shown in _shown_models():
        if name in (shown["id"], *shown.get("aliases", ())):
            return jsonify(shown)
    raise ApiError(
        404, f"The model {name!r} does not exist.", code="model_not_found", param="model"
    )


def _shown_models() -> list[dict[str, Any]]:
    runtime = current_runtime()
    if runtime.registry.models:
        return [_shown(model) for model in runtime.registry.models]
    answers = ask_all.ask(
        runtime.pool.backends, "/v1/models", timeout_s=runtime.settings.status_timeout_s
    )
    # By id: what several backends serve is one model.
    return list({shown["id"]: shown for _, answer in answers for shown in answer["data"]}.values())


def _shown(model: Model) -> dict[str, Any]:
    return {
        "id": model.id,
        "aliases": model.names[1:],  # as llama-server shows them
        "object": "model",
        "created": 0,  # required by OpenAI's schema; the file's age says nothing
        "owned_by": "heartcode",
    }
