"""Looks after what outlives its process: conversations in files, and what was learnt of speeds.

    keeper = Keeper(backends, cache=cache, speeds=speeds)
    keeper.start()   # in the worker: a greenlet does not live through a fork
    keeper.retire()  # another process has it now
    keeper.stop()

Both are None where nothing of the kind is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from traceback import format_tb

import gevent
from gevent import Greenlet

from heartcode.routing.backend import Backend
from heartcode.telemetry import log
from heartcode.warm.conversation_cache import ConversationCache
from heartcode.warm.kept_speeds import KeptSpeeds

_TICK_S = 0.5
_REFRESH_S = 2.0


class Keeper:
    """Saves what is idle on each backend, looks what has become of the files, keeps the speeds."""

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        cache: ConversationCache | None = None,
        speeds: KeptSpeeds | None = None,
    ) -> None:
        self._backends = backends
        self._cache = cache
        self._speeds = speeds
        self._greenlets: list[Greenlet[..., None]] = []

    def start(self) -> None:
        """Begin; each backend by itself, as one may be slow."""
        if self._speeds is not None:
            self._speeds.recall()
            self._begin("", self._speeds.keep, _REFRESH_S)
        if self._cache is not None:
            for backend in self._backends:
                step = partial(self._cache.save_what_is_idle, backend)
                self._begin(backend.name, step, _TICK_S)
            self._begin("", self._cache.refresh, _REFRESH_S)

    def retire(self) -> None:
        """Leave it to another process, which takes all new requests from now on."""
        if self._cache is not None:
            self._cache.retire()
        if self._speeds is not None:
            self._speeds.retire()

    def stop(self) -> None:
        """Do no more."""
        gevent.killall(self._greenlets)
        if self._speeds is not None:
            self._speeds.finish()

    def _begin(self, name: str, step: Callable[[], None], pause_s: float) -> None:
        self._greenlets.append(gevent.spawn(self._run, name, step, pause_s))

    def _run(self, name: str, step: Callable[[], None], pause_s: float) -> None:
        while True:
            try:
                step()
            except Exception as error:  # noqa: BLE001 - without it nothing would be saved any more
                why = f"{type(error).__name__}\n{''.join(format_tb(error.__traceback__))}"
                log.backend_event("keeper_failed", backend=name, level=logging.ERROR, why=why)
            gevent.sleep(pause_s)
