"""What this rig serves (`/v1/models`)."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from heartcode.client import Client
from heartcode.rig import current_rig
from heartcode.upstream import Call

bp = Blueprint("models", __name__)

_PATIENCE_S = 5.0


@bp.get("/v1/models")
def models() -> Response:
    """Answer with the configured name, or with what a backend says; all serve the same model."""
    rig = current_rig()
    if rig.settings.model:
        model = {
            "id": rig.settings.model,
            "object": "model",
            "created": 0,  # required by OpenAI's schema; the file's age says nothing
            "owned_by": "heartcode",
        }
        return jsonify(object="list", data=[model])
    call = Call(method="GET", path="/v1/models")
    answer = rig.relay.ask(call, Client(), silence_timeout_s=_PATIENCE_S)
    return Response(answer.body, status=answer.status, content_type=answer.content_type)
