"""Time that passes when nobody has anything left to do.

    clock = Clock()
    clock.spawn(function, argument)   # a greenlet, which may wait
    clock.run(until=86400.0)

`clock.sleep(seconds)` and `Event.wait(seconds)` give way to the others, and what is due first goes
on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from greenlet import getcurrent, greenlet


class Clock:
    """Seconds since the beginning, by the call of it; and who waits for which."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], Any]]] = []
        self._serial = count()
        self._hub = getcurrent()

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def at(self, seconds: float, action: Callable[[], Any]) -> None:
        """Call `action` then; what is due at the same time comes in the order of these calls."""
        heapq.heappush(self._due, (seconds, next(self._serial), action))

    def spawn(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Let `function` run as a greenlet, from the next moment on."""
        self.at(self.now, lambda: greenlet(function, self._hub).switch(*arguments))

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass for the greenlet that calls this."""
        self.at(self.now + seconds, getcurrent().switch)
        self._hub.switch()

    def give_way(self) -> None:
        """Wait until somebody switches to the greenlet that calls this."""
        self._hub.switch()

    def run(self, until: float) -> None:
        """Let everything happen that is due before `until`."""
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = until


class Event:
    """As gevent's, for one greenlet that waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._is_set = False
        self._waiting: greenlet | None = None

    def is_set(self) -> bool:
        """Return whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Let it happen; who waits goes on at this moment."""
        self._is_set = True
        self._wake_up(self._waiting)

    def wait(self, timeout: float) -> bool:
        """Wait for it, for at most `timeout` seconds; return whether it has happened."""
        if not self._is_set:
            self._waiting = waiting = getcurrent()
            turn = _Turn()
            self._clock.at(self._clock.now + timeout, lambda: self._wake_up(waiting, turn))
            self._turn = turn
            self._clock.give_way()
        return self._is_set

    def _wake_up(self, waiting: greenlet | None, turn: _Turn | None = None) -> None:
        if waiting is None or (turn or self._turn).is_over:
            return
        self._turn.is_over = True
        self._waiting = None
        self._clock.at(self._clock.now, waiting.switch)


class _Turn:
    """One wait, which ends once: by the event or by its time."""

    is_over = False
