"""One llama-server, and what this process knows about it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from heartcode.routing.breaker import Breaker
from heartcode.routing.prefix_cache import PrefixCache
from heartcode.routing.served_model import ServedModel
from heartcode.routing.throughput import Throughput
from heartcode.telemetry import log, metrics

if TYPE_CHECKING:
    from heartcode.routing.lease import Lease, SlotLease


class Backend:
    """One llama-server: where it is, and what this process knows about it.

    Attributes:
        name: "host:port", for logs and metrics.
        slots: requests that it works on at a time; more would queue inside it.
        last_taken: the serial number of the last choice that fell on it.
        leases: the requests that it is working on for this process, one for each slot in use.
        questions: further requests to it, which need no slot.
        last_heard: when it last said something, by the clock of the pool; set for every token.
        breaker: whether it is believed to work.
        cache: the conversations that it probably holds.
        throughput: how fast it is.
        served: which model it has, as it says itself.
        is_occupied: whether its loop writes a file: what is asked of it meanwhile waits, and says
            nothing of its health.
        occupied_until: until when it will probably do so, by the clock of the pool.
    """

    def __init__(
        self,
        url: str,
        *,
        slots: int = 1,
        host_cache_chars: int = 0,
        rig_throughput: Throughput | None = None,
        breaker: Breaker | None = None,
        served: ServedModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.port = parts.port or 80
        self.name = parts.netloc
        self.slots = slots
        self.last_taken = 0
        self.leases: set[SlotLease] = set()
        self.questions: set[Lease] = set()
        self.last_heard = clock()
        self.breaker = breaker or Breaker(clock=clock)
        self.cache = PrefixCache(slots=slots, host_chars=host_cache_chars, clock=clock)
        self.throughput = Throughput(rig_throughput)
        self.served = served or ServedModel(self.name)
        self.is_occupied = False
        self.occupied_until = 0.0
        self._clock = clock
        metrics.BACKEND_SLOTS.labels(backend=self.name).set(slots)

    @property
    def in_flight(self) -> int:
        """How many requests it is working on."""
        return len(self.leases)

    @property
    def at_work(self) -> set[Lease]:
        """Everything that it was asked by this process and is not done with."""
        return {*self.leases, *self.questions}

    @property
    def has_free_slot(self) -> bool:
        """Whether it can take another request."""
        return len(self.leases) < self.slots

    @property
    def avoided(self) -> bool:
        """Whether it has failed and not answered since, so that others come first."""
        return self.breaker.is_open

    @property
    def is_up(self) -> bool:
        """Whether it is known to generate, and what the settings say."""
        return self.breaker.is_proven and not self.served.is_other

    def has_answered(self) -> None:
        """Note that the backend works."""
        self.last_heard = self._clock()
        if self.breaker.answered():
            self._tell(up=True, why="it answers")

    def has_failed(self, why: str) -> None:
        """Note that the backend failed: others come first, and nothing is expected in its cache."""
        self.cache.forget()
        self.served.forget()
        if self.breaker.failed():
            self._tell(up=False, why=why)

    def _tell(self, *, up: bool, why: str) -> None:
        metrics.BACKEND_UP.labels(backend=self.name).set(up)
        level = logging.INFO if up else logging.WARNING
        log.backend_event("backend", backend=self.name, level=level, up=up, why=why)

    def slot_free_in_s(self, now: float) -> float:
        """Return the seconds until it can take another request, as far as can be told."""
        if self.has_free_slot:
            return 0.0
        return min(lease.left_s(now) for lease in self.leases)
