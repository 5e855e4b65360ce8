"""Asks several backends the same question about themselves, all at once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import gevent

from heartcode.errors import ApiError
from heartcode.routing.backend import Backend
from heartcode.upstream.exchange import BackendError, Exchange, UpstreamRequest


def ask(backends: Iterable[Backend], path: str, *, timeout_s: float) -> list[tuple[Backend, Any]]:
    """Return what each backend answers to `GET path`, as JSON; those that fail are left out.

    Raises:
        ApiError: 503 when none answers.
    """
    asked = [(backend, gevent.spawn(_ask_one, backend, path, timeout_s)) for backend in backends]
    answers = [(backend, greenlet.get()) for backend, greenlet in asked]
    found = [(backend, answer) for backend, answer in answers if answer is not None]
    if not found:
        raise ApiError(503, "no backend is ready", code="backend_unavailable")
    return found


def _ask_one(backend: Backend, path: str, timeout_s: float) -> Any:
    # A backend that is loading or dying, or talks nonsense, has nothing to tell: None.
    with suppress(BackendError, ValueError), Exchange(backend.host, backend.port) as exchange:
        exchange.send(
            UpstreamRequest(method="GET", path=path),
            connect_timeout_s=timeout_s,
            silence_timeout_s=timeout_s,
        )
        body = b"".join(iter(exchange.read_some, b""))
        return json.loads(body) if exchange.status == HTTPStatus.OK else None
    return None
