"""The backends of this rig, what is known of each, and how a request gets one.

    with pool.take(ticket=ticket, client=client) as lease:
        ...  # lease.backend works for us until here
        lease.learn(measured)

The counts belong to one process. A single worker sees all of the rig's traffic; with several, each
of them balances its own share.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable, Sequence
from http import HTTPStatus
from itertools import count
from urllib.parse import urlsplit

from heartcode.client import Client
from heartcode.routing import policy
from heartcode.routing.admission import Limits, Ticket, WaitingRoom, Wish
from heartcode.routing.breaker import Breaker
from heartcode.routing.policy import Offer, Policy
from heartcode.routing.prefix_cache import Place, PrefixIndex
from heartcode.routing.prompt_hash import Prompt
from heartcode.routing.throughput import Lengths, Speeds
from heartcode.telemetry import log, metrics
from heartcode.upstream.usage import Measured

# A share of the expected answer that is always taken to be left: what has run for longer than
# expected will not end at once for that.
_NEVER_LESS = 0.25


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
        speeds: how fast it is.
    """

    def __init__(
        self,
        url: str,
        *,
        slots: int = 1,
        host_cache_chars: int = 0,
        rig_speeds: Speeds | None = None,
        breaker: Breaker | None = None,
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
        self.cache = PrefixIndex(slots=slots, host_chars=host_cache_chars, clock=clock)
        self.speeds = Speeds(rig_speeds)
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

    def has_answered(self) -> None:
        """Note that the backend works."""
        self.last_heard = self._clock()
        if self.breaker.answered():
            self._tell(up=True, why="it answers")

    def has_failed(self, why: str) -> None:
        """Note that the backend failed: others come first, and nothing is expected in its cache."""
        self.cache.forget()
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


class Lease:
    """A backend that works on one request until released, and needs no slot for it.

    Attributes:
        began: when it was given, by the clock of the pool.
        is_given_up: whether its backend was judged to hang.
    """

    def __init__(self, backend: Backend, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.backend = backend
        self.began = clock()
        self.is_given_up = False
        self._abort: Callable[[], None] | None = None
        # While all candidates are avoided, a request is what finds out whether one works again.
        self._trial = backend.breaker.begin_trial()
        self._enter()

    def _enter(self) -> None:
        self.backend.questions.add(self)

    def has_answered(self, status: int) -> None:
        """Note that an answer has begun.

        What needs no slot is answered beside the loop that generates, and says nothing of it.
        """

    def learn(self, measured: Measured | None) -> None:
        """Take what the backend said about its answer when it was complete."""

    def when_given_up(self, abort: Callable[[], None]) -> None:
        """Call `abort`, which must not block, when the backend is judged to hang."""
        self._abort = abort

    def give_up(self) -> None:
        """Wait no more: the backend hangs."""
        self.is_given_up = True
        if self._abort is not None:
            self._abort()

    def release(self) -> None:
        """Give the backend back; a second call does nothing."""
        self.backend.questions.discard(self)
        self.backend.breaker.end_trial(self._trial)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class SlotLease(Lease):
    """A lease that holds one of the backend's slots until released.

    Args:
        backend: the backend.
        ticket: the request's.
        prompt_s: how long its prompt will probably take, from now on.
        lengths: what is known about the lengths of texts; it is told of this answer.
        clock: seconds.
        released: called when the slot is free again.

    Attributes:
        prompt_done: when its prompt will probably have been evaluated, by `clock`.
    """

    def __init__(
        self,
        backend: Backend,
        ticket: Ticket,
        *,
        prompt_s: float,
        lengths: Lengths,
        clock: Callable[[], float],
        released: Callable[[], None],
    ) -> None:
        self._ticket = ticket
        self._lengths = lengths
        self._clock = clock
        self._released = released
        self.prompt_done = clock() + prompt_s
        self._answer_s = lengths.answer_of_at_most(ticket.max_tokens) / backend.speeds.decode.value
        self._answer_chars = 0
        self._place: Place | None = backend.cache.begin(ticket.prompt)
        super().__init__(backend, clock=clock)

    def _enter(self) -> None:
        self.backend.leases.add(self)

    def has_answered(self, status: int) -> None:
        """Note that an answer has begun; a refusal comes from beside the loop as well."""
        if status == HTTPStatus.OK:
            self.backend.has_answered()

    def left_s(self, now: float) -> float:
        """Return in how many seconds it will probably be over."""
        answer_left = min(self._answer_s, self.prompt_done + self._answer_s - now)
        return max(0.0, self.prompt_done - now) + max(_NEVER_LESS * self._answer_s, answer_left)

    def learn(self, measured: Measured | None) -> None:
        """Correct the backend's speeds, the lengths of texts and what its cache holds."""
        if measured is None:
            return
        self.backend.speeds.learn(measured)
        self._lengths.learn(measured, prompt_chars=self._ticket.prompt.chars)
        tokens_per_char = self._lengths.tokens_per_char.value
        if self._place is not None:
            self._place.found(round(measured.cached / tokens_per_char))
        self._answer_chars = round(measured.generated / tokens_per_char)

    def release(self) -> None:
        """Free the slot; whoever waits for one is called."""
        if self._place is None:
            return
        self._place.end(answer_chars=self._answer_chars)
        self._place = None
        self.backend.leases.discard(self)
        self.backend.breaker.end_trial(self._trial)
        self._released()


class Pool:
    """All backends of the rig, and the queue in front of them."""

    def __init__(
        self,
        backends: Iterable[Backend],
        *,
        choose: Policy = policy.time_to_first_token,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.backends = tuple(backends)
        self._choose = choose
        self._clock = clock
        self._lengths = Lengths()
        self._serial = count(1)
        self._room: WaitingRoom[SlotLease] = WaitingRoom(
            self._grant, self._free_slots, self._next_slot_s, limits, clock=clock
        )

    def take(
        self,
        *,
        except_for: Container[Backend] = (),
        serving: Container[Backend] | None = None,
        ticket: Ticket | None = None,
        client: Client | None = None,
    ) -> Lease | None:
        """Lease the backend that the policy prefers; None if none is left.

        `serving` are the backends that have the model that is asked for; None: all of them.
        With a ticket this takes a slot and waits until there is one, as long as the client stays.
        Without one it asks for an answer that needs no slot, and never waits.

        Raises:
            ApiError: 429 when the queue is full, 504 when the wait is over, 403 when the request
                should try another rig.
            ClientGoneError: when the client left.
        """
        candidates = [
            b for b in self.backends if b not in except_for and (serving is None or b in serving)
        ]
        if not candidates:
            return None
        if ticket is None:
            best = min(candidates, key=lambda b: (b.avoided, b.in_flight))
            return Lease(best, clock=self._clock)
        wish: Wish[SlotLease] = Wish(ticket=ticket, candidates=candidates)
        lease = self._room.enter(wish, client or Client())
        ticket.admitted = True
        return lease

    def take_idle(self, backend: Backend, ticket: Ticket) -> SlotLease | None:
        """Lease `backend` for a probe; None if it works on anything, which says more than a probe.

        Whose turn it is among the backends stays as it is.
        """
        if backend.at_work:
            return None
        return self._slot_lease(backend, ticket, prompt_s=0.0)

    def _grant(self, wish: Wish[SlotLease]) -> SlotLease | None:
        candidates = _worth_asking(wish)
        if not any(b.has_free_slot for b in candidates):
            return None  # before anything is looked up: this is asked often
        now = self._clock()
        prompt, tokens_per_char = wish.ticket.prompt, self._lengths.tokens_per_char.value
        offers = [
            _offer(n, b, prompt, tokens_per_char=tokens_per_char, now=now)
            for n, b in enumerate(candidates)
        ]
        best = self._choose(offers)
        if best is not None and not best.free:
            second = self._choose([offer for offer in offers if offer.free])
            best = second if second and not _is_held(wish, best, second, now) else None
        if best is None:
            return None
        return self._lease(candidates[best.backend], best, wish.ticket)

    def _lease(self, backend: Backend, offer: Offer, ticket: Ticket) -> SlotLease:
        backend.last_taken = next(self._serial)
        return self._slot_lease(backend, ticket, prompt_s=offer.ahead_s + offer.prompt_s)

    def _slot_lease(self, backend: Backend, ticket: Ticket, *, prompt_s: float) -> SlotLease:
        return SlotLease(
            backend,
            ticket,
            prompt_s=prompt_s,
            lengths=self._lengths,
            clock=self._clock,
            released=self._room.call_next,
        )

    def _free_slots(self, wish: Wish[SlotLease] | None) -> int:
        """Return how many slots are free: of those that `wish` could have, or of all."""
        backends = self.backends if wish is None else _worth_asking(wish)
        return sum(max(0, backend.slots - backend.in_flight) for backend in backends)

    def _next_slot_s(self) -> float:
        """Return the seconds until a slot becomes free and with it a place in the queue."""
        now = self._clock()
        working = [b for b in self.backends if not b.avoided] or self.backends
        return min(backend.slot_free_in_s(now) for backend in working)


def _worth_asking(wish: Wish[SlotLease]) -> Sequence[Backend]:
    # What failed a moment ago is no alternative to waiting for what works.
    return [b for b in wish.candidates if not b.avoided] or wish.candidates


def _offer(
    number: int, backend: Backend, prompt: Prompt, *, tokens_per_char: float, now: float
) -> Offer:
    match = backend.cache.look_up(prompt)
    speed = backend.speeds.prompt.value
    is_free = backend.has_free_slot
    return Offer(
        backend=number,
        free=is_free,
        avoided=backend.avoided,
        in_flight=len(backend.leases),
        last_taken=backend.last_taken,
        wait_s=0.0 if is_free else backend.slot_free_in_s(now),
        ahead_s=sum([x.prompt_done - now for x in backend.leases if x.prompt_done > now]),
        prompt_s=policy.prompt_seconds(
            match, chars=prompt.chars, tokens_per_char=tokens_per_char, speed=speed
        ),
        loss_s=policy.loss_seconds(match, tokens_per_char=tokens_per_char, speed=speed),
    )


def _is_held(wish: Wish[SlotLease], best: Offer, second: Offer, now: float) -> bool:
    """Say whether a request still waits for its best backend while another one is free.

    It does so for as long as the free one would take longer, decided once: when the estimate of the
    wait was wrong, it has lost no more time than the better cache could have saved.
    """
    if wish.hold_until is None:
        wish.hold_until = now + max(0.0, second.cost_s - best.cost_without_wait_s)
    return now < wish.hold_until
