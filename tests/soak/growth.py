"""Whether something grows: samples, their table, and the bounds."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from tools.bench.measuring import table

# The first requests of each kind fill caches and arenas, and load what is loaded once.
_WARM_UP_REQUESTS, _WARM_UP_SHARE = 1500, 0.25


@dataclass(frozen=True, kw_only=True)
class Bound:
    """What may be measured.

    Attributes:
        name: what it is, with its unit.
        per_1000: how much it may grow with 1,000 requests.
        at_rest: how much more it may be at the end, when nothing is going on, than before the first
            request; None where that says nothing.
    """

    name: str
    per_1000: float
    at_rest: float | None = None


@dataclass(frozen=True, kw_only=True)
class Growth:
    """One quantity over a run.

    Attributes:
        bound: what it may do.
        requests: how many had been answered at each sample.
        values: the samples; the first and the last are taken at rest.
    """

    bound: Bound
    requests: Sequence[int]
    values: Sequence[float]

    @property
    def warm(self) -> int:
        """The sample with which the warm-up is over."""
        enough = max(_WARM_UP_REQUESTS, _WARM_UP_SHARE * self.requests[-1])
        return bisect_left(self.requests, enough, hi=len(self.requests) - 1)

    def slope(self) -> tuple[float, float]:
        """Return by how much it grows with 1,000 requests, and the standard error of that."""
        xs, ys = self.requests[self.warm : -1], self.values[self.warm : -1]
        number = len(xs)
        spread = sum((x - statistics.fmean(xs)) ** 2 for x in xs) if number else 0.0
        if number < 3 or not spread:
            return 0.0, math.inf
        fit = statistics.linear_regression(xs, ys)
        left = sum((y - fit.slope * x - fit.intercept) ** 2 for x, y in zip(xs, ys, strict=True))
        return fit.slope * 1000, math.sqrt(left / (number - 2) / spread) * 1000

    def fault(self) -> str:
        """Say what is wrong with it; "" if nothing is.

        What is measured beside a load scatters: so a slope counts where it is beyond its bound by
        more than twice its standard error.
        """
        slope, error = self.slope()
        if math.isinf(error):
            return f"{self.bound.name}: too few samples to say whether it grows"
        if slope - 2 * error > self.bound.per_1000:
            return (
                f"{self.bound.name} grows by {slope:.2f} (± {error:.2f}) with 1,000 requests,"
                f" and may by {self.bound.per_1000:g}"
            )
        more = self.values[-1] - self.values[0]
        if self.bound.at_rest is not None and more > self.bound.at_rest:
            return f"{self.bound.name} is {more:g} more at the end than at the start"
        return ""

    def row(self) -> list[str]:
        """Return its line of the table."""
        slope, error = self.slope()
        at = (self.values[0], self.values[self.warm], max(self.values), self.values[-1])
        return [
            self.bound.name,
            *(f"{value:,.0f}" for value in at),
            f"{slope:+.2f} ± {error:.2f}",
            f"{self.bound.per_1000:g}",
        ]


def report(growths: Sequence[Growth]) -> str:
    """Return the table."""
    head = ["", "start", "after warm-up", "most", "end", "with 1,000 requests", "bound"]
    return table([head, *(growth.row() for growth in growths)])
