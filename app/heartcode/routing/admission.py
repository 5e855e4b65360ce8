"""How a request waits until a backend has a slot for it.

    queue = AdmissionQueue(grant, free_slots, retry_after_s, limits)
    granted = queue.enter(waiter, client)   # waits
    queue.call_next()                       # a slot is free

The queue knows nothing of backends: `grant` returns what a request asks for, or None if it has to
wait. It is made for greenlets: nothing here is interrupted except while it waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Generic, Protocol, TypeVar

from gevent.event import Event

from heartcode.client import Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.routing.fair_queue import FairQueue
from heartcode.routing.request_info import Overflow, RequestInfo
from heartcode.telemetry import metrics

# How often a waiting request looks again, apart from when a slot becomes free: a backend that was
# avoided comes back without a word.
_LOOK_AGAIN_S = 1.0


class Grant(Protocol):
    """What a waiter is given, and can be given back."""

    def release(self) -> None: ...  # noqa: D102


class Happening(Protocol):
    """What a waiter waits for: gevent's event, or one of another time than the real one."""

    def is_set(self) -> bool: ...  # noqa: D102

    def set(self) -> None: ...  # noqa: D102

    def wait(self, timeout: float) -> bool: ...  # noqa: D102


GrantT = TypeVar("GrantT", bound=Grant)


@dataclass(kw_only=True, eq=False)
class Waiter(Generic[GrantT]):
    """A request that asks for a backend.

    Attributes:
        info: what is known of it.
        backends: those that it may get.
        hold_until: until when it would rather wait for a certain backend; None before it had to
            decide.
        granted: what it got.
        called: set when it need not wait any longer.
    """

    info: RequestInfo
    backends: Sequence[Any] = ()
    hold_until: float | None = None
    granted: GrantT | None = None
    called: Happening = field(default_factory=Event)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many requests may wait, and for how many seconds each."""

    length: int
    wait_s: float


class AdmissionQueue(Generic[GrantT]):
    """The queue in front of the backends."""

    def __init__(
        self,
        grant: Callable[[Waiter[GrantT]], GrantT | None],
        free_slots: Callable[[Waiter[GrantT] | None], int],
        retry_after_s: Callable[[], float],
        limits: Limits,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grant = grant
        self._free_slots = free_slots
        self._retry_after_s = retry_after_s
        self._limits = limits
        self._clock = clock
        self._queue: FairQueue[Waiter[GrantT]] = FairQueue()

    def enter(self, waiter: Waiter[GrantT], client: Client) -> GrantT:
        """Return what is granted, at once or after a wait.

        Raises:
            ApiError: 429 when there is no room to wait, 504 when the wait is over; 403 when it
                should try elsewhere.
            ClientGoneError: when the client left.
        """
        # It may wait for a better slot than the free one, but only as many may as slots are free:
        # nobody waits here for whom a slot is free elsewhere and none here.
        wants_slot = waiter.info.overflow is Overflow.WHEN_BUSY and not waiter.info.admitted
        if wants_slot and self._free_slots(waiter) <= len(self._queue):
            raise ApiError(HTTPStatus.FORBIDDEN, "all slots are busy", code="slots_busy")
        if not self._queue and (granted := self._grant(waiter)) is not None:
            return granted
        if len(self._queue) >= self._limits.length and not waiter.info.admitted:
            return self._last_chance(waiter)
        self._queue.add(waiter.info.client, waiter, first=waiter.info.admitted)
        metrics.QUEUE_DEPTH.inc()
        arrived = self._clock()
        try:
            self.call_next()
            return self._wait(waiter, client, arrived + self._limits.wait_s)
        except BaseException:
            if waiter.granted is not None:  # called in the moment in which the wait was broken off
                waiter.granted.release()
            raise
        finally:
            waiter.info.queued_s += self._clock() - arrived
            self._leave(waiter)

    def call_next(self) -> None:
        """Grant what can be granted now, in the order of the queue."""
        passed: set[Waiter[GrantT]] = set()
        while self._queue and self._free_slots(None):
            for waiter in self._queue:
                if waiter not in passed and (granted := self._grant(waiter)) is not None:
                    break
                passed.add(waiter)
            else:
                return
            self._queue.serve(waiter.info.client, waiter)
            metrics.QUEUE_DEPTH.dec()
            waiter.granted = granted
            waiter.called.set()

    def _last_chance(self, waiter: Waiter[GrantT]) -> GrantT:
        """Serve a request that cannot wait, from a slot that those who wait do not want."""
        waiter.hold_until = -math.inf
        if (granted := self._grant(waiter)) is not None:
            return granted
        seconds = math.ceil(max(1.0, min(self._retry_after_s(), self._limits.wait_s)))
        raise ApiError(
            429 if waiter.info.overflow is Overflow.NEVER else HTTPStatus.FORBIDDEN,
            f"all slots are busy and the queue is full; try again in {seconds} s",
            code="queue_full",
            headers={"Retry-After": str(seconds)},
        )

    def _wait(self, waiter: Waiter[GrantT], client: Client, deadline: float) -> GrantT:
        def leave() -> None:  # in the event loop: it must not block
            self._leave(waiter)
            waiter.called.set()

        client.when_gone(leave)
        while waiter.granted is None:
            if client.gone:
                raise ClientGoneError
            now = self._clock()
            if now >= deadline:
                raise ApiError(504, "no slot became free in time", code="queue_timeout")
            waiter.called.wait(min(_LOOK_AGAIN_S, deadline - now, self._held_for(waiter, now)))
            if not waiter.called.is_set():
                self.call_next()
        return waiter.granted

    def _held_for(self, waiter: Waiter[GrantT], now: float) -> float:
        if waiter.hold_until is None or waiter.hold_until <= now:
            return _LOOK_AGAIN_S
        return waiter.hold_until - now

    def _leave(self, waiter: Waiter[GrantT]) -> None:
        if self._queue.remove(waiter.info.client, waiter):
            metrics.QUEUE_DEPTH.dec()
