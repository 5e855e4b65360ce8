"""Whether this rig can serve (`/health`) and whether the proxy itself runs (`/livez`)."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from heartcode.client import Client
from heartcode.relay import Request
from heartcode.rig import current_rig
from heartcode.upstream import Call

bp = Blueprint("health", __name__)


@bp.get("/health")
def health() -> Response:
    """Answer 200 when a backend says that its model is loaded; 503 otherwise and when draining."""
    rig = current_rig()
    rig.refuse_if_draining()
    # llama-server answers this from its own thread, whatever the GPU is doing.
    asked = Request(call=Call(method="GET", path="/health"), client=Client())
    rig.relay.ask(asked, silence_timeout_s=rig.settings.status_timeout_s)
    return jsonify(status="ok")


@bp.get("/livez")
def livez() -> Response:
    """Answer 200 as long as the proxy answers at all."""
    return jsonify(status="ok")
