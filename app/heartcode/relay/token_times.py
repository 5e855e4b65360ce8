"""When the tokens of one answer came."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import pairwise

from heartcode.telemetry import metrics

_BOUNDS = metrics.INTER_TOKEN_BUCKETS


class TokenTimes:
    """The times of one answer's tokens, in seconds by `time.monotonic()`.

    They are only written down, eight bytes each, and worked out when the answer is over: this is
    called for every token.
    """

    def __init__(self) -> None:
        self._times = array("d")
        self.note = self._times.append  # what comes in one piece counts as one

    @property
    def first(self) -> float | None:
        """When the first one came; None before."""
        return self._times[0] if self._times else None

    def report(self, *, since: float, model: str) -> None:
        """Count the times in the metrics; `since` is when the request came."""
        if self.first is None:
            return
        metrics.TIME_TO_FIRST_TOKEN.labels(model=model).observe(self.first - since)
        # How many gaps were at most as long as each bound, and, at the end, longer than all.
        gaps = [0] * (len(_BOUNDS) + 1)
        for earlier, later in pairwise(self._times):
            gaps[bisect_left(_BOUNDS, later - earlier)] += 1
        total_s = self._times[-1] - self._times[0]
        metrics.INTER_TOKEN.labels(model=model).observe_counted(gaps, total_s)
