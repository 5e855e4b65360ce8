"""Every card of this rig and what is believed of it (`/fleet`).

A gateway answers `/fleet` in the same form for all its rigs (ADR 22), so that whoever reads one
reads the other.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

from flask import Blueprint, Response, jsonify, request

from heartcode import __version__
from heartcode.api.context import current_runtime
from heartcode.errors import ApiError
from heartcode.health.quarantine import reason
from heartcode.routing.backend import Backend
from heartcode.routing.served_model import ADVICE
from heartcode.runtime.runtime import Runtime

bp = Blueprint("fleet", __name__)

_FIELDS = ("number", "backend", "model", "state", "busy", "slots")


@bp.get("/fleet")
def fleet() -> Response:
    """Show the rig and its backends, as JSON or, with `?format=text`, as lines for a shell.

    "up" is a backend that is known to generate, as for `/health`; one that serves something else
    than the settings say is "other_model".
    """
    form = request.args.get("format", "json")
    if form not in ("json", "text"):
        raise ApiError(400, "format must be json or text", code="bad_request", param="format")
    rigs = [_shown(current_runtime())]
    if form == "json":
        return jsonify(rigs=rigs)
    return Response("".join(rows(rigs)), mimetype="text/plain")


def rows(rigs: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each backend, and for each rig that has told of none.

    The fields, with tabs between them: the rig's name and state, the backend's number, address,
    model, state, requests that it works on and slots. What is not known is "-". There will be
    no more: a script may take further fields for something else's answer.
    """
    for rig in rigs:
        for backend in rig["backends"] or [{}]:
            fields = [rig["name"], rig["state"], *(backend.get(field, "-") for field in _FIELDS)]
            yield "\t".join(str(field) for field in fields) + "\n"


def _shown(runtime: Runtime) -> dict[str, Any]:
    backends = [_backend(runtime, number, b) for number, b in enumerate(runtime.pool.backends)]
    up = sum(backend["state"] == "up" for backend in backends)
    state = "up" if up == len(backends) else "degraded" if up else "down"
    return {
        "name": socket.gethostname(),
        "version": __version__,
        "state": "draining" if runtime.draining.is_on else state,
        "backends": backends,
    }


def _backend(runtime: Runtime, number: int, backend: Backend) -> dict[str, Any]:
    model = next((m.id for m in runtime.registry.models if backend in m.backends), "-")
    served = backend.served
    cards = runtime.settings.gpu_uuids
    gone = reason(runtime.settings.run_dir, number)
    return {
        "number": number,
        "backend": backend.name,
        "model": model,
        "state": _state(backend, is_gone=gone is not None),
        "slots": backend.slots,
        "busy": backend.in_flight,
        "n_ctx": served.n_ctx or None,
        "serves": None if served.identity is None else str(served.identity),
        "version": (served.identity and served.identity.build) or "-",
        **({"cards": list(cards[number])} if cards else {}),
        **({"gone": gone} if gone else {}),
        **({"advice": ADVICE} if served.is_other else {}),
    }


def _state(backend: Backend, *, is_gone: bool) -> str:
    if is_gone:
        return "gone"
    if not backend.breaker.known:
        return "starting"
    if backend.served.is_other:
        return "other_model"
    return "up" if backend.breaker.is_proven else "down"
