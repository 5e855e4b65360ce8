"""What llama-server does with a slot as a whole: save it to a file, read it from one, empty it.

    saved = slots.save(backend, 1, "name", timeout_s=30)
    slots.restore(backend, 1, "name", timeout_s=30)

`POST /slots/N?action=...` (llama.cpp, tools/server/server-context.cpp, handle_slots_save and what
follows; `--slot-save-path` says where files lie). It is done by the one loop that computes, between
two batches, and waits for a slot that is at work: nobody else's tokens come meanwhile. Who hangs up
before it has begun takes it back.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import gevent

from heartcode.routing.backend import Backend
from heartcode.upstream.exchange import BackendError, Exchange, Reason, UpstreamRequest

_HEADERS = {"User-Agent": "heartcode-warm", "Content-Type": "application/json"}
_MAX_BODY_BYTES = 4 * 1024 * 1024
_SHOWN_CHARS = 200
_LEAST_S = 1e-4


class RefusedError(Exception):
    """llama-server does not do it; `status` is its answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What was saved or restored; `seconds` are those for which the loop did nothing else."""

    tokens: int
    size: int
    seconds: float


Abort = Callable[[Callable[[], None]], None]


def save(backend: Backend, number: int, name: str, *, timeout_s: float) -> Moved:
    """Let `backend` write what is in a slot to the file `name`.

    Raises:
        RefusedError: it does not.
        BackendError: it does not answer; SILENT after `timeout_s`.
    """
    path, body = f"/slots/{number}?action=save", _named(name)
    told = _ask(backend, UpstreamRequest(method="POST", path=path, body=body), timeout_s)
    return _moved(told, tokens="n_saved", size="n_written", ms="save_ms")


def restore(
    backend: Backend, number: int, name: str, *, timeout_s: float, abort_when: Abort
) -> Moved:
    """Let `backend` read the file `name` into a slot; when it refuses, the slot is empty.

    `abort_when` is told what ends the exchange at once.

    Raises:
        RefusedError, BackendError: as in `save()`.
    """
    path, body = f"/slots/{number}?action=restore", _named(name)
    request = UpstreamRequest(method="POST", path=path, body=body)
    told = _ask(backend, request, timeout_s, abort_when)
    return _moved(told, tokens="n_restored", size="n_read", ms="restore_ms")


def erase(backend: Backend, number: int, *, timeout_s: float) -> None:
    """Empty a slot.

    Raises:
        RefusedError, BackendError: as in `save()`.
    """
    path = f"/slots/{number}?action=erase"
    _ask(backend, UpstreamRequest(method="POST", path=path, body=b"{}"), timeout_s)


def are_idle(backend: Backend, *, timeout_s: float) -> bool:
    """Return whether `backend` works on nothing, for whomever.

    Raises:
        RefusedError, BackendError: as in `save()`.
    """
    told = _ask(backend, UpstreamRequest(method="GET", path="/slots"), timeout_s)
    return isinstance(told, list) and not any(
        not isinstance(slot, dict) or slot.get("is_processing") is not False for slot in told
    )


def naming(body: bytes, number: int) -> bytes | None:
    """Return `body`, a JSON object, with the slot that it asks for; None where it has no fields."""
    begin, brace, rest = body.partition(b"{")
    if not brace or rest.lstrip()[:1] in (b"", b"}"):
        return None
    return b'%b{"id_slot":%d,%b' % (begin, number, rest)


def _named(name: str) -> bytes:
    return json.dumps({"filename": name}).encode()


def _moved(told: Any, *, tokens: str, size: str, ms: str) -> Moved:
    try:
        seconds = max(_LEAST_S, float(told["timings"][ms]) / 1000)
        return Moved(tokens=int(told[tokens]), size=int(told[size]), seconds=seconds)
    except (LookupError, TypeError, ValueError) as error:
        raise RefusedError(HTTPStatus.OK, "it does not say what it has done") from error


def _ask(
    backend: Backend, request: UpstreamRequest, timeout_s: float, abort_when: Abort | None = None
) -> Any:
    request = replace(request, headers=_HEADERS)
    with ExitStack() as held:
        held.enter_context(gevent.Timeout(timeout_s, BackendError(Reason.SILENT)))
        exchange = held.enter_context(Exchange(backend.host, backend.port))
        if abort_when is not None:
            abort_when(exchange.abort)
        exchange.send(request, connect_timeout_s=timeout_s, silence_timeout_s=timeout_s)
        answer = exchange.read_all(_MAX_BODY_BYTES)
        status = exchange.status
    try:
        told = json.loads(answer)
    except (ValueError, RecursionError):
        told = None
    if status != HTTPStatus.OK or told is None:
        raise RefusedError(status, answer[:_SHOWN_CHARS].decode(errors="replace"))
    return told
