"""llama-server's `/props` and `/slots`, for the rig as a whole.

Reading only: what changes a backend (`POST /props`, saving and restoring slots) has no route here.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, jsonify, request

from heartcode.api.context import current_runtime
from heartcode.errors import ApiError
from heartcode.relay import ask_all
from heartcode.routing.model_registry import DEFAULT_HEADER
from heartcode.routing.request_info import OVERFLOW_HEADER, Overflow

bp = Blueprint("status", __name__)


@bp.get("/props")
def props() -> Response:
    """Show what clients read before they ask for text: template, context and number of slots.

    They are those of the default model, or of `?model=`; backends differ in little else.
    """
    runtime = current_runtime()
    default = request.headers.get(DEFAULT_HEADER)
    backends = runtime.registry.chosen_by(request.args.get("model"), default=default).backends
    right = [backend for backend in backends if not backend.served.is_other]
    answers = ask_all.ask(right, "/props", timeout_s=runtime.settings.status_timeout_s)
    found = [answer for _, answer in answers]
    merged: dict[str, Any] = dict(found[0])
    merged["total_slots"] = sum(answer.get("total_slots", 0) for answer in found)
    # A client that fills the context must fit on whichever backend it gets.
    settings = [answer.get("default_generation_settings", {}) for answer in found]
    contexts = [each["n_ctx"] for each in settings if "n_ctx" in each]
    if contexts:
        merged["default_generation_settings"] = {**settings[0], "n_ctx": min(contexts)}
    return jsonify(merged)


@bp.get("/slots")
def slots() -> Response:
    """List the slots of all backends, each with its backend's name and without its texts.

    With `?fail_on_no_slot=1` it is an error if none of them is idle, as at a llama-server.
    """
    runtime = current_runtime()
    answers = runtime.slots.ask(runtime.pool.backends, timeout_s=runtime.settings.status_timeout_s)
    found = [(backend, slot) for backend, slots in answers for slot in slots]
    if request.args.get("fail_on_no_slot") and all(s.get("is_processing") for _, s in found):
        raise _no_slot(Overflow.of(request.headers.get(OVERFLOW_HEADER)))
    return jsonify([{"backend": backend.name, **_numbers(slot)} for backend, slot in found])


def _no_slot(overflow: Overflow) -> ApiError:
    # A gateway takes a 503 for a rig that has failed, and would pass it over for everybody.
    status = 503 if overflow is Overflow.NEVER else HTTPStatus.FORBIDDEN
    return ApiError(status, "no slot available", code="no_slot")


def _numbers(slot: dict[str, Any]) -> dict[str, Any]:
    """Return the slot's state alone.

    What may pass is named by its form, not by its name: a text or a list of tokens, whatever a
    later llama-server calls it, could be somebody's prompt.
    """
    shown = _scalars(slot)
    following = slot.get("next_token")
    if isinstance(following, list):
        shown["next_token"] = [_scalars(each) for each in following if isinstance(each, dict)]
    return shown


def _scalars(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if isinstance(value, int | float)}
