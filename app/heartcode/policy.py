"""Which backend gets the next request.

A policy is a function of what is known about the backends and has no effects of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar


class Load(Protocol):
    """What a policy knows about a backend.

    Attributes:
        in_flight: requests that the backend is working on.
        last_taken: a number that is the higher the later the backend was chosen last.
        avoided: whether the backend failed a moment ago.
    """

    @property
    def in_flight(self) -> int: ...  # noqa: D102
    @property
    def last_taken(self) -> int: ...  # noqa: D102
    @property
    def avoided(self) -> bool: ...  # noqa: D102


BackendT = TypeVar("BackendT", bound=Load)


def least_busy(candidates: Iterable[BackendT]) -> BackendT | None:
    """Choose the backend with the fewest requests in flight, or None if there is no candidate.

    Among equals the one that has waited longest is next, so that they take turns. An avoided
    backend comes after all others, but it comes: being refused costs less than giving up.
    """
    return min(candidates, key=lambda b: (b.avoided, b.in_flight, b.last_taken), default=None)
