"""Looks after the conversations of a rig while nobody asks for them.

keeper = Keeper(cache, backends)
keeper.start()   # in the worker: a greenlet does not live through a fork
keeper.stop()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from traceback import format_tb

import gevent
from gevent import Greenlet

from heartcode.routing.backend import Backend
from heartcode.telemetry import log
from heartcode.warm.conversation_cache import ConversationCache

_TICK_S = 0.5
_REFRESH_S = 2.0


class Keeper:
    """Saves what is idle on each backend, and looks what has become of the files."""

    def __init__(self, cache: ConversationCache, backends: Sequence[Backend]) -> None:
        self._cache = cache
        self._backends = backends
        self._greenlets: list[Greenlet[..., None]] = []

    def start(self) -> None:
        """Begin; each backend by itself, as one may be slow."""
        self._greenlets = [
            gevent.spawn(self._run, backend.name, self._saving(backend), _TICK_S)
            for backend in self._backends
        ]
        self._greenlets.append(gevent.spawn(self._run, "", self._cache.refresh, _REFRESH_S))

    def stop(self) -> None:
        """Do no more."""
        gevent.killall(self._greenlets)

    def _saving(self, backend: Backend) -> Callable[[], None]:
        return lambda: self._cache.save_what_is_idle(backend)

    def _run(self, name: str, step: Callable[[], None], pause_s: float) -> None:
        while True:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - without it nothing would be saved any more
                why = f"{type(error).__name__}\n{''.join(format_tb(error.__traceback__))}"
                log.backend_event("keeper_failed", backend=name, level=logging.ERROR, why=why)
            gevent.sleep(pause_s)
