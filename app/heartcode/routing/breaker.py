"""Whether a backend is believed to work: a breaker for each, fed by real traffic and by probes.

    breaker = Breaker(first_pause_s=1, longest_pause_s=10)
    breaker.failed()              # open: others come first
    breaker.trial_is_due          # from the end of the pause on
    trial = breaker.begin_trial() # half-open: nobody else needs to try
    breaker.answered()            # closed
    breaker.end_trial(trial)      # without an answer: open as before

A failure opens it, an answer closes it, whoever they came from. While it is open, a trial is due
after a pause that doubles with each failure after which one was due, up to the longest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum


class State(Enum):
    """What a breaker says of its backend."""

    CLOSED = "closed"  # nothing is known against it
    OPEN = "open"  # it has failed
    HALF_OPEN = "half_open"  # it has failed, and somebody finds out whether it still does


class Trial:
    """One attempt to find out; see `Breaker.begin_trial`."""


class Breaker:
    """The breaker of one backend. It begins closed, but with nothing proven.

    Args:
        first_pause_s: seconds from the first failure to the first trial.
        longest_pause_s: what that pause grows to.
        clock: seconds.

    Attributes:
        known: whether anything has been seen of the backend yet.
        is_open: whether the last that was seen is a failure.
        due: from when on a trial is due, by `clock`; of no meaning while closed.
    """

    def __init__(
        self,
        *,
        first_pause_s: float = 1.0,
        longest_pause_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.known = False
        self.due = clock()
        self._first_pause_s = first_pause_s
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self.is_open = False
        self._pause_s = first_pause_s
        self._trial: Trial | None = None

    @property
    def state(self) -> State:
        """What is believed."""
        if not self.is_open:
            return State.CLOSED
        return State.OPEN if self._trial is None else State.HALF_OPEN

    @property
    def is_proven(self) -> bool:
        """Whether the backend is known to work."""
        return self.known and not self.is_open

    @property
    def trial_is_due(self) -> bool:
        """Whether the backend has failed and should be tried again now, by nobody else yet."""
        return self.state is State.OPEN and self._clock() >= self.due

    def answered(self) -> bool:
        """Note an answer; return whether that is news."""
        is_news = not self.is_proven
        self.known = True
        self.is_open = False
        self._trial = None
        return is_news

    def failed(self) -> bool:
        """Note a failure; return whether that is news."""
        now = self._clock()
        is_news = not (self.known and self.is_open)
        if not self.is_open:
            self._pause_s = self._first_pause_s
            self.due = now + self._pause_s
        elif now >= self.due:
            # Not for each of the many requests that one crash takes along.
            self._pause_s = min(2 * self._pause_s, self._longest_pause_s)
            self.due = now + self._pause_s
        self.known = self.is_open = True
        self._trial = None
        return is_news

    def begin_trial(self) -> Trial | None:
        """Let the caller find out whether the backend works; None if nobody needs to.

        It may come before it is due: a request that has no other backend does not wait.
        """
        if self.state is not State.OPEN:
            return None
        self._trial = Trial()
        return self._trial

    def end_trial(self, trial: Trial | None) -> None:
        """Note that `trial` is over; if it has brought no verdict, the next may begin."""
        if trial is not None and self._trial is trial:
            self._trial = None
