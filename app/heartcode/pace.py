"""When the tokens of one answer came."""

from __future__ import annotations

import time
from bisect import bisect_left

from heartcode import metrics

_BOUNDS = metrics.INTER_TOKEN_BUCKETS


class Pace:
    """The times of one answer's tokens.

    Attributes:
        first: when the first one came (`time.monotonic()`); None before.
    """

    def __init__(self) -> None:
        self.first: float | None = None
        self._last = 0.0
        self._total_s = 0.0
        # How many gaps were at most as long as each bound, and, at the end, longer than all.
        self._gaps = [0] * (len(_BOUNDS) + 1)

    def note(self) -> None:
        """Note that tokens have come; what comes in one piece counts as one."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
        else:
            gap = now - self._last
            self._gaps[bisect_left(_BOUNDS, gap)] += 1
            self._total_s += gap
        self._last = now

    def report(self, *, since: float, model: str) -> None:
        """Count the times in the metrics; `since` is when the request came."""
        if self.first is not None:
            metrics.TIME_TO_FIRST_TOKEN.labels(model=model).observe(self.first - since)
            metrics.INTER_TOKEN.labels(model=model).observe_counted(self._gaps, self._total_s)
