"""What a backend is asked to find out whether it works; its own /health is not believed.

One that computes nothing generates a token. One that is at work would have to finish a prompt or
more before it got to that; it is asked for its LoRA adapters. llama-server answers that from the
loop that computes, between two batches (`server-context.cpp`, SERVER_TASK_TYPE_GET_LORA; at the
pinned version `/slots`, `/metrics` and `/health` are answered during a batch as well, however long
it takes), so that an answer shows that batches end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus

import gevent

from heartcode.relay.buffered import WholeAnswer
from heartcode.routing.backend import Backend
from heartcode.routing.prompt_hash import Prompt
from heartcode.routing.request_info import RequestInfo
from heartcode.upstream import identity
from heartcode.upstream.exchange import BackendError, Exchange, Reason, UpstreamRequest
from heartcode.upstream.usage import Usage

# Of more than ten tokens, so that the one with which every text begins is less than a tenth of it:
# then llama-server does not take it for the beginning of somebody's conversation, and gives it the
# slot that was used longest ago or that of the last probe (--slot-prompt-similarity).
_FIELDS = {"prompt": "one two three four five six seven eight nine ten eleven", "n_predict": 1}
_PROMPT = Prompt.of(_FIELDS)

_HEADERS = {**identity.HEADERS, "Content-Type": "application/json"}

TOKEN = UpstreamRequest(
    method="POST", path="/completion", headers=_HEADERS, body=json.dumps(_FIELDS).encode()
)
SLOTS = UpstreamRequest(method="GET", path="/slots", headers=_HEADERS)
LOOP = UpstreamRequest(method="GET", path="/lora-adapters", headers=_HEADERS)

# A limit that was noticed so much too late proves nothing: the proxy itself was stopped or starved.
_LATE_S = 1.0


class LateError(Exception):
    """The proxy stood still while it waited, so that nothing can be said of the backend."""


def info() -> RequestInfo:
    """Return what routing knows of a probe."""
    return RequestInfo(client="", prompt=_PROMPT, max_tokens=1)


def generate_token(backend: Backend, *, timeout_s: float) -> None:
    """Let `backend`, of which the caller holds a lease, generate a token.

    Raises:
        BackendError: when it does not; SILENT after `timeout_s` in all.
    """
    answer = _ask(backend, TOKEN, timeout_s)
    usage = Usage.in_body(answer.body) if answer.status == HTTPStatus.OK else None
    if usage is None or usage.generated < 1:
        raise BackendError(Reason.ERROR, f"no token, but status {answer.status}")


def is_computing(backend: Backend, *, timeout_s: float) -> bool:
    """Say whether `backend` is at work, for whomever; no if it does not tell.

    Raises:
        BackendError: when it cannot be asked; SILENT after `timeout_s` in all.
    """
    answer = _ask(backend, SLOTS, timeout_s)
    with suppress(ValueError):
        slots = json.loads(answer.body)
        if isinstance(slots, list):
            return any(isinstance(s, dict) and s.get("is_processing") is True for s in slots)
    return False


def is_there(backend: Backend, *, timeout_s: float) -> None:
    """Return when `backend` says which model it has: it has not ended, whatever it may compute.

    What it serves is noted, all of it where that is not known or has changed.

    Raises:
        BackendError: when it does not answer; SILENT after `timeout_s` in all.
    """
    served = backend.served
    process = served.process()
    with _limit(timeout_s):
        if not served.is_unknown and served.identity is not None:
            told = identity.ask(backend.host, backend.port, timeout_s=2 * timeout_s)
            if told == served.identity.told:
                return
        if served.is_started_anew:
            backend.cache.forget()
        served.note(identity.identify(backend.host, backend.port, timeout_s=2 * timeout_s), process)


def end_batch(backend: Backend, *, timeout_s: float) -> None:
    """Return when `backend` has come to the end of a batch.

    Raises:
        BackendError: when it cannot be asked; SILENT after `timeout_s` in all.
    """
    _ask(backend, LOOP, timeout_s)


def _ask(backend: Backend, request: UpstreamRequest, timeout_s: float) -> WholeAnswer:
    never_s = 2 * timeout_s
    with _limit(timeout_s), Exchange(backend.host, backend.port) as exchange:
        exchange.send(request, connect_timeout_s=never_s, silence_timeout_s=never_s)
        return WholeAnswer(exchange)


@contextmanager
def _limit(timeout_s: float) -> Iterator[None]:
    # The one limit for all: a backend that hangs may still accept a connection, or not even that.
    began = time.monotonic()
    try:
        with gevent.Timeout(timeout_s, BackendError(Reason.SILENT)):
            yield
    except BackendError as error:
        if error.reason is Reason.SILENT and time.monotonic() - began > timeout_s + _LATE_S:
            raise LateError from error
        raise
