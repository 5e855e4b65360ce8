"""The backends of this rig, and how busy each of them is.

    with pool.take() as lease:
        ...  # lease.backend works for us until here

The counts belong to one process. A single worker sees all of the rig's traffic; with several, each
of them balances its own share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable
from itertools import count
from urllib.parse import urlsplit

from heartcode import metrics
from heartcode.policy import least_busy


class Backend:
    """One llama-server: where it is, and what this process knows about it.

    Attributes:
        name: "host:port", for logs and metrics.
        in_flight: requests that it is working on for this process.
        last_taken: the serial number of the last choice that fell on it.

    After a failure the backend is avoided for `avoid_s` seconds.
    """

    def __init__(
        self, url: str, *, avoid_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.name = parts.netloc
        self.in_flight = 0
        self.last_taken = 0
        self._avoid_s = avoid_s
        self._clock = clock
        self._avoid_until = clock()

    @property
    def avoided(self) -> bool:
        """Whether it failed so recently that others come first."""
        return self._clock() < self._avoid_until

    def has_answered(self) -> None:
        """Note that the backend works."""
        self._avoid_until = self._clock()
        metrics.BACKEND_UP.labels(backend=self.name).set(1)

    def has_failed(self) -> None:
        """Note that the backend failed; avoid it for a while."""
        self._avoid_until = self._clock() + self._avoid_s
        metrics.BACKEND_UP.labels(backend=self.name).set(0)


class Lease:
    """A backend's promise to work on one request; counted as in flight until released."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._held = True
        backend.in_flight += 1

    def release(self) -> None:
        """Give the backend back; a second call does nothing."""
        if self._held:
            self._held = False
            self.backend.in_flight -= 1

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Pool:
    """All backends of the rig."""

    def __init__(self, backends: Iterable[Backend]) -> None:
        self.backends = tuple(backends)
        self._serial = count(1)

    def take(self, *, except_for: Container[Backend] = ()) -> Lease | None:
        """Lease the backend that the policy prefers; None if all of them are excepted."""
        backend = least_busy(b for b in self.backends if b not in except_for)
        if backend is None:
            return None
        backend.last_taken = next(self._serial)
        return Lease(backend)
