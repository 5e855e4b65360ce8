"""Reading in the event loop itself.

A greenlet that reads tokens is woken for each of them: it tries to read, waits, and is switched to
and fro. A callback in the loop costs a third of that (docs/adr/0011-the-hot-path.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gevent import get_hub
from gevent.event import Event

from heartcode.upstream.exchange import BackendError, Exchange, Reason

READABLE = 1  # libev's EV_READ


class _Steps:
    """Calls `step` whenever `watcher` says so, until it returns False or raises."""

    def __init__(self, watcher: Any, step: Callable[[], bool]) -> None:
        self._watcher = watcher
        self._step = step
        self.error: Exception | None = None
        self.ended = Event()
        watcher.start(self._go_on)

    def _go_on(self) -> None:
        try:
            if self._step():
                return
        except Exception as error:  # noqa: BLE001 - raised again where somebody waits for it
            self.error = error
        self._watcher.stop()
        self.ended.set()


def while_readable(exchange: Exchange, step: Callable[[], bool]) -> None:
    """Call `step`, which must not block, whenever `exchange` can be read, until it returns False.

    Raises:
        BackendError: when the backend was silent for too long.
        Exception: what `step` raised.
    """
    watcher = get_hub().loop.io(exchange.fileno(), READABLE)
    steps = _Steps(watcher, step)
    try:
        # One timer for each silence, not for each token.
        left = exchange.silence_s
        while not steps.ended.wait(left):
            left = exchange.last_heard + exchange.silence_s - time.monotonic()
            if left <= 0:
                raise BackendError(Reason.SILENT)
    finally:
        watcher.stop()
        watcher.close()
    if steps.error is not None:
        raise steps.error
