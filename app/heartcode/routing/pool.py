"""The backends of this rig, and how a request gets one.

    with pool.take(info=info, client=client) as lease:
        ...  # lease.backend works for us until here
        lease.learn(usage)

The counts belong to one process. A single worker sees all of the rig's traffic; with several, each
of them balances its own share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from itertools import count

from gevent.event import Event

from heartcode.client import Client
from heartcode.errors import ApiError
from heartcode.routing import policy
from heartcode.routing.admission import AdmissionQueue, Happening, Limits, Waiter
from heartcode.routing.backend import Backend
from heartcode.routing.lease import Lease, SlotLease
from heartcode.routing.policy import Candidate, Policy
from heartcode.routing.prefix_cache import Match
from heartcode.routing.prompt_hash import Prompt
from heartcode.routing.request_info import RequestInfo
from heartcode.routing.room import able, of_its_file, refuse_what_fits_nowhere, roomy
from heartcode.routing.throughput import Lengths

#: The code of the error where none is left that could serve a request.
NO_BACKEND = "backend_unavailable"


@dataclass(frozen=True, kw_only=True)
class Restorable:
    """What a file would give a request: characters of its prompt, after some seconds."""

    chars: int
    seconds: float


#: Returns what a backend could restore of a prompt; None if nothing.
Restoring = Callable[[Backend, Prompt], Restorable | None]


def nothing_restorable(_backend: Backend, _prompt: Prompt) -> None:
    """Return None: no conversations are kept in files."""


class Pool:
    """All backends of the rig, and the queue in front of them."""

    def __init__(
        self,
        backends: Iterable[Backend],
        *,
        choose: Policy = policy.time_to_first_token,
        limits: Limits,
        restoring: Restoring = nothing_restorable,
        clock: Callable[[], float] = time.monotonic,
        event: Callable[[], Happening] = Event,
    ) -> None:
        self.backends = tuple(backends)
        self._restoring = restoring
        self._event = event
        self._choose = choose
        self._clock = clock
        self._lengths = Lengths()
        self._serial = count(1)
        self._queue: AdmissionQueue[SlotLease] = AdmissionQueue(
            self._grant, self._free_slots, self._next_slot_s, limits, clock=clock
        )

    def take(
        self,
        *,
        except_for: Container[Backend] = (),
        serving: Container[Backend] | None = None,
        info: RequestInfo | None = None,
        client: Client | None = None,
    ) -> Lease | None:
        """Lease the backend that the policy prefers; None if none is left.

        `serving` are the backends that have the model that is asked for; None: all of them.
        With `info` this takes a slot and waits until there is one, as long as the client stays.
        Without one it asks for an answer that needs no slot, and never waits.

        Raises:
            ApiError: 429 when the queue is full, 504 when the wait is over, 403 when the request
                should try another rig, 400 when its prompt fits no backend, 503 when all serve
                another model.
            ClientGoneError: when the client left.
        """
        having = [b for b in self.backends if serving is None or b in serving]
        if having and all(b.served.is_other for b in having):
            message = "every backend of this model serves another one now; GET /fleet says which"
            raise ApiError(503, message, code=NO_BACKEND)
        if info is not None:
            refuse_what_fits_nowhere(having, info)
        backends = able([b for b in having if b not in except_for], info)
        if not backends:
            return None
        if info is None:
            best = min(backends, key=lambda b: (b.avoided, b.in_flight))
            return Lease(best, clock=self._clock)
        backends = list(roomy(of_its_file(backends, info), self._tokens_of(info)))
        waiter: Waiter[SlotLease] = Waiter(info=info, backends=backends, called=self._event())
        lease = self._queue.enter(waiter, client or Client())
        info.admitted = True
        return lease

    def take_idle(self, backend: Backend, info: RequestInfo) -> SlotLease | None:
        """Lease `backend` for a probe; None if it works on anything, which says more than a probe.

        Whose turn it is among the backends stays as it is.
        """
        if backend.at_work:
            return None
        return self._slot_lease(backend, info, prompt_s=0.0)

    def largest_context(self, serving: Container[Backend] | None = None) -> int:
        """Return the tokens of one conversation that the largest of these backends has."""
        having = [b for b in self.backends if serving is None or b in serving]
        return max((b.served.n_ctx for b in able(having, None)), default=0)

    def _tokens_of(self, info: RequestInfo) -> float:
        """Return how many tokens a request and its answer will probably have."""
        if info.wanted_tokens is not None:
            return info.wanted_tokens
        prompt = info.prompt.chars * self._lengths.tokens_per_char.value
        return max(prompt, info.tokens) + self._lengths.answer_of_at_most(info.max_tokens)

    def _grant(self, waiter: Waiter[SlotLease]) -> SlotLease | None:
        backends = _worth_asking(waiter)
        if not any(b.has_free_slot for b in backends):
            return None  # before anything is looked up: this is asked often
        now = self._clock()
        prompt, tokens_per_char = waiter.info.prompt, self._lengths.tokens_per_char.value
        candidates = [
            _candidate(
                n,
                b,
                prompt,
                tokens_per_char=tokens_per_char,
                now=now,
                restorable=self._restoring(b, prompt),
            )
            for n, b in enumerate(backends)
        ]
        best = self._choose(candidates)
        if best is not None and not best.free:
            second = self._choose([candidate for candidate in candidates if candidate.free])
            best = second if second and not _is_held(waiter, best, second, now) else None
        if best is None:
            return None
        return self._lease(backends[best.backend], best, waiter.info)

    def _lease(self, backend: Backend, candidate: Candidate, info: RequestInfo) -> SlotLease:
        backend.last_taken = next(self._serial)
        return self._slot_lease(backend, info, prompt_s=candidate.ahead_s + candidate.prompt_s)

    def _slot_lease(self, backend: Backend, info: RequestInfo, *, prompt_s: float) -> SlotLease:
        return SlotLease(
            backend,
            info,
            prompt_s=prompt_s,
            lengths=self._lengths,
            clock=self._clock,
            released=self._queue.call_next,
        )

    def _free_slots(self, waiter: Waiter[SlotLease] | None) -> int:
        """Return how many slots are free: of those that `waiter` could have, or of all."""
        backends = self.backends if waiter is None else _worth_asking(waiter)
        return sum(max(0, backend.slots - backend.in_flight) for backend in backends)

    def _next_slot_s(self) -> float:
        """Return the seconds until a slot becomes free and with it a place in the queue."""
        now = self._clock()
        working = [b for b in self.backends if not b.avoided] or self.backends
        return min(backend.slot_free_in_s(now) for backend in working)


def _worth_asking(waiter: Waiter[SlotLease]) -> Sequence[Backend]:
    # What failed a moment ago is no alternative to waiting for what works; what has become another
    # model since this waits is none to anything.
    backends = able(waiter.backends, waiter.info)
    return [b for b in backends if not b.breaker.is_open] or backends


def _candidate(
    number: int,
    backend: Backend,
    prompt: Prompt,
    *,
    tokens_per_char: float,
    now: float,
    restorable: Restorable | None,
) -> Candidate:
    match = backend.cache.look_up(prompt)
    speed = backend.throughput.prompt.value
    leases = backend.leases
    is_free = len(leases) < backend.slots
    prompt_s = policy.prompt_seconds(
        match, chars=prompt.chars, tokens_per_char=tokens_per_char, speed=speed
    )
    if restorable is not None and restorable.chars > match.cached_chars:
        rest = Match(cached_chars=restorable.chars)
        rest_s = policy.prompt_seconds(
            rest, chars=prompt.chars, tokens_per_char=tokens_per_char, speed=speed
        )
        prompt_s = min(prompt_s, restorable.seconds + rest_s)
    return Candidate(
        backend=number,
        free=is_free,
        avoided=backend.breaker.is_open,
        in_flight=len(leases),
        last_taken=backend.last_taken,
        wait_s=0.0 if is_free else backend.slot_free_in_s(now),
        ahead_s=_ahead_s(backend, now) if leases or backend.occupied_until > now else 0.0,
        prompt_s=prompt_s,
        loss_s=policy.loss_seconds(match, tokens_per_char=tokens_per_char, speed=speed),
    )


def _ahead_s(backend: Backend, now: float) -> float:
    """Return for how many seconds its GPU still evaluates the prompts of others."""
    ahead_s = max(0.0, backend.occupied_until - now)
    for lease in backend.leases:
        if lease.prompt_done > now:
            ahead_s += lease.prompt_done - now
    return ahead_s


def _is_held(waiter: Waiter[SlotLease], best: Candidate, second: Candidate, now: float) -> bool:
    """Say whether a request still waits for its best backend while another one is free.

    It does so for as long as the free one would take longer, decided once: when the estimate of the
    wait was wrong, it has lost no more time than the better cache could have saved.
    """
    if waiter.hold_until is None:
        waiter.hold_until = now + max(0.0, second.cost_s - best.cost_without_wait_s)
    return now < waiter.hold_until
