"""Asks several backends the same question about themselves, all at once."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import gevent
from gevent import Greenlet

from heartcode.errors import ApiError
from heartcode.relay.buffered import WholeAnswer
from heartcode.routing.backend import Backend
from heartcode.upstream.exchange import BackendError, Exchange, UpstreamRequest

Answered = list[tuple[Backend, Any]]


def ask(backends: Iterable[Backend], path: str, *, timeout_s: float) -> Answered:
    """Return what each backend answers to `GET path`, as JSON; those that fail are left out.

    Raises:
        ApiError: what they say if they refuse, 503 when none answers.
    """
    asked = [(backend, gevent.spawn(_ask_one, backend, path, timeout_s)) for backend in backends]
    return _answered(asked)


class SparingQuestion:
    """One question, for which each backend is asked no more often than every `pause_s` seconds.

    Who asks sooner, or while it is being asked, gets the same answer.
    """

    def __init__(
        self, path: str, *, pause_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._pause_s = pause_s
        self._clock = clock
        self._asked: dict[Backend, tuple[float, Greenlet[..., WholeAnswer | None]]] = {}

    def ask(self, backends: Iterable[Backend], *, timeout_s: float) -> Answered:
        """Return what the backends answer or have answered a moment ago, see `ask()`."""
        return _answered([(backend, self._asked_of(backend, timeout_s)) for backend in backends])

    def _asked_of(self, backend: Backend, timeout_s: float) -> Greenlet[..., WholeAnswer | None]:
        now = self._clock()
        last = self._asked.get(backend)
        if last is not None and (now - last[0] < self._pause_s or not last[1].ready()):
            return last[1]
        greenlet = gevent.spawn(_ask_one, backend, self._path, timeout_s)
        self._asked[backend] = now, greenlet
        return greenlet


def _answered(asked: list[tuple[Backend, Greenlet[..., WholeAnswer | None]]]) -> Answered:
    answers = [(backend, greenlet.get()) for backend, greenlet in asked]
    told = [(backend, answer) for backend, answer in answers if answer is not None]
    found = [
        (backend, parsed)
        for backend, answer in told
        if answer.status == HTTPStatus.OK and (parsed := _json(answer.body)) is not None
    ]
    if found:
        return found
    for _, answer in told:
        if answer.status != HTTPStatus.OK and answer.is_json:
            raise answer.as_error()
    raise ApiError(503, "no backend is ready", code="backend_unavailable")


def _json(body: bytes) -> Any:
    with suppress(ValueError):
        return json.loads(body)
    return None


def _ask_one(backend: Backend, path: str, timeout_s: float) -> WholeAnswer | None:
    # A backend that is loading or dying, or talks nonsense, has nothing to tell: None.
    with suppress(BackendError), Exchange(backend.host, backend.port) as exchange:
        exchange.send(
            UpstreamRequest(method="GET", path=path),
            connect_timeout_s=timeout_s,
            silence_timeout_s=timeout_s,
        )
        return WholeAnswer(exchange)
    return None
