"""Whether this rig can serve (`/health`) and whether the proxy itself runs (`/livez`)."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from heartcode.api.context import current_runtime
from heartcode.errors import ApiError
from heartcode.routing.served_model import ADVICE

bp = Blueprint("health", __name__)


@bp.get("/health")
@bp.get("/v1/health")  # llama-server has both
def health() -> Response:
    """Answer 200 when a backend is known to generate; 503 otherwise and when draining.

    What serves something else than the settings say does not count, and is named.
    """
    runtime = current_runtime()
    runtime.draining.refuse_new()
    up = runtime.backends_up(wait_s=runtime.settings.status_timeout_s)
    backends = runtime.pool.backends
    other = sum(backend.served.is_other for backend in backends)
    # Which, and what they serve, `/fleet` says to those who have a key.
    told = (
        f"{other} of {len(backends)} backends serve another model than the settings say: {ADVICE}"
    )
    if not up:
        message = "no backend is ready" + (f"; {told}" if other else "")
        raise ApiError(503, message, code="backend_unavailable")
    warning = {"warning": told} if other else {}
    return jsonify(status="ok", backends_up=up, backends=len(backends), **warning)


@bp.get("/livez")
def livez() -> Response:
    """Answer 200 as long as the proxy answers at all."""
    return jsonify(status="ok")
