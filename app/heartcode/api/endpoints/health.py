"""Whether this rig can serve (`/health`) and whether the proxy itself runs (`/livez`)."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from heartcode.errors import ApiError
from heartcode.runtime.runtime import current_rig

bp = Blueprint("health", __name__)


@bp.get("/health")
def health() -> Response:
    """Answer 200 when a backend is known to generate; 503 otherwise and when draining."""
    rig = current_rig()
    rig.refuse_if_draining()
    up = rig.backends_up(wait_s=rig.settings.status_timeout_s)
    if not up:
        raise ApiError(503, "no backend is ready", code="backend_unavailable")
    return jsonify(status="ok", backends_up=up, backends=len(rig.pool.backends))


@bp.get("/livez")
def livez() -> Response:
    """Answer 200 as long as the proxy answers at all."""
    return jsonify(status="ok")
