"""Whether this rig can serve (`/health`) and whether the proxy itself runs (`/livez`)."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from heartcode.api.context import current_runtime
from heartcode.errors import ApiError

bp = Blueprint("health", __name__)


@bp.get("/health")
@bp.get("/v1/health")  # llama-server has both
def health() -> Response:
    """Answer 200 when a backend is known to generate; 503 otherwise and when draining."""
    runtime = current_runtime()
    runtime.draining.refuse_new()
    up = runtime.backends_up(wait_s=runtime.settings.status_timeout_s)
    if not up:
        raise ApiError(503, "no backend is ready", code="backend_unavailable")
    return jsonify(status="ok", backends_up=up, backends=len(runtime.pool.backends))


@bp.get("/livez")
def livez() -> Response:
    """Answer 200 as long as the proxy answers at all."""
    return jsonify(status="ok")
