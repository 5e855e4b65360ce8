"""Gateway and rigs in virtual time: the rigs' own pools, queues, policies and caches are at work.

What is simulated is what is around them: nginx's ring (`ring`), the clients (`traffic`), and the
llama-servers, which take as long as P106 cards with an 8B model and keep what llama-server keeps.
It hides the network, what a request costs gateway and proxy, and that a card slows down when two
conversations share it.
"""

from __future__ import annotations

import logging
import random
import statistics
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from heartcode.client import Client
from heartcode.errors import ApiError
from heartcode.routing.admission import Limits
from heartcode.routing.backend import Backend
from heartcode.routing.breaker import Breaker
from heartcode.routing.lease import Lease
from heartcode.routing.pool import Pool
from heartcode.routing.prefix_cache import PrefixCache
from heartcode.routing.prompt_hash import Prompt
from heartcode.routing.request_info import Overflow, RequestInfo
from heartcode.upstream.usage import Usage

from tools.simulation.ring import Ring
from tools.simulation.traffic import (
    CHARS_PER_TOKEN,
    EVENING_H,
    Conversation,
    answer_tokens,
    pause_s,
    share_of_peak,
)
from tools.simulation.virtual_time import Clock, Event

# Of a P106-100 with an 8B model in Q4_K_M, tokens/s (docs/tuning.md measures each card's own).
PROMPT_SPEED, DECODE_SPEED = 300.0, 25.0
# What a rig of 4 GB has for the host's prompt cache, in characters for each card.
_HOST_CHARS = 3 * 4096 * CHARS_PER_TOKEN
# How long a card is gone that has failed: until somebody has started its rig again.
_REPAIR_S = 3 * 3600.0
# The role's gateway_fail_timeout_s: for how long nginx asks a rig for nothing that has failed.
_FAIL_TIMEOUT_S = 5.0
_LATE_S = (1.0, 10.0)
# What a turn takes that finds its conversation in a cache: 0.6 s of prompt and 7.2 s of answer, and
# then a pause of 70 s; a conversation has 32 of them.
_BUSY_S, _TURN_S, _TURNS = 7.8, 77.8, 32


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is simulated.

    Attributes:
        rigs, cards: how many rigs, and how many cards each of them has.
        slots: of each card.
        load: which share of all slots is at work in the evening, if nobody waits and all is cached.
        hours: how many of the day pass, around the evening's peak.
        failing: which share of the cards fails in that time.
        max_tries: how many rigs are asked in the first stage; 0 for all, as the gateway does.
        seed: of everything that is drawn by lot.
    """

    rigs: int
    cards: int = 6
    slots: int = 1
    load: float = 0.7
    hours: float = 24.0
    failing: float = 0.01
    max_tries: int = 0
    seed: int = 1


@dataclass(kw_only=True)
class Figures:
    """What has happened.

    Attributes:
        requests: how many were answered.
        refused: how many found all queues full, or waited for too long.
        moved: how many lost their card and were served by another.
        prompt_tokens, cached_tokens, ideal_tokens: of all prompts, from caches, and what would have
            come from caches if each conversation had found all of its last turn.
        at_home: how many later turns were served by the rig of the turn before.
        tries: for each request the number of rigs that were asked.
        queued_s: for each request the seconds in queues.
        first_token_s: for each request the seconds to its first token.
        by_rig: requests of each rig.
    """

    requests: int = 0
    refused: int = 0
    moved: int = 0
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    ideal_tokens: float = 0.0
    later_turns: int = 0
    at_home: int = 0
    tries: list[int] = field(default_factory=list)
    queued_s: list[float] = field(default_factory=list)
    first_token_s: list[float] = field(default_factory=list)
    by_rig: Counter[int] = field(default_factory=Counter)

    @property
    def reuse(self) -> float:
        """The share of what a perfect cache would have held that was reused."""
        return self.cached_tokens / self.ideal_tokens if self.ideal_tokens else 0.0

    def imbalance(self, rigs: int) -> float:
        """Return how much more the busiest rig has served than the mean."""
        served = [self.by_rig[rig] for rig in range(rigs)]
        return max(served) / statistics.fmean(served) - 1 if any(served) else 0.0

    def late(self) -> list[float]:
        """Return the shares of requests that have queued for longer than 1 s and 10 s."""
        number = max(1, len(self.queued_s))
        return [sum(each > limit for each in self.queued_s) / number for limit in _LATE_S]


class _Card:
    """A llama-server: what it really holds, and whether it is there."""

    def __init__(self, backend: Backend, plan: Plan, clock: Clock) -> None:
        self.backend = backend
        self.cache = PrefixCache(slots=plan.slots, host_chars=_HOST_CHARS, clock=clock)
        self.is_there = True
        self.deaths = 0

    def die(self) -> None:
        """Fall off the bus."""
        self.is_there = False
        self.deaths += 1
        self.cache.forget()


class Fleet:
    """All rigs, and a gateway before them."""

    def __init__(self, plan: Plan) -> None:
        logging.getLogger("heartcode.backends").setLevel(logging.ERROR)
        self.clock = Clock()
        self.figures = Figures()
        self._plan = plan
        self._rng = random.Random(plan.seed)  # noqa: S311 - no secret
        self._ring = Ring(
            [f"10.0.{n // 250}.{n % 250 + 1}:8080" for n in range(plan.rigs)], weight=4
        )
        self._cards: dict[Backend, _Card] = {}
        self._pools = [self._pool(rig) for rig in range(plan.rigs)]
        self._at_work = [0] * plan.rigs
        self._left_out_until = [0.0] * plan.rigs
        self._number = 0

    def run(self) -> Figures:
        """Let the day pass; return what has happened in it."""
        plan, seconds = self._plan, self._plan.hours * 3600
        cards = sorted(self._cards.values(), key=lambda card: card.backend.name)
        failing = max(1, round(plan.failing * len(cards))) if plan.failing else 0
        for card in self._rng.sample(cards, k=failing):
            self._fail(card, at=self._rng.uniform(0.1, 0.9) * seconds)
        self._begin_amid()
        self.clock.at(0.0, self._begin_next)
        self.clock.run(until=seconds)
        return self.figures

    def _pool(self, rig: int) -> Pool:
        backends = []
        for card in range(self._plan.cards):
            backend = Backend(
                f"http://rig{rig}:{8081 + card}",
                slots=self._plan.slots,
                host_cache_chars=_HOST_CHARS,
                breaker=Breaker(clock=self.clock),
                clock=self.clock,
            )
            self._cards[backend] = _Card(backend, self._plan, self.clock)
            backends.append(backend)
        return Pool(
            backends,
            limits=Limits(length=64, wait_s=120.0),
            clock=self.clock,
            event=lambda: Event(self.clock),
        )

    def _fail(self, card: _Card, *, at: float) -> None:
        def be_back() -> None:
            card.is_there = True
            card.backend.has_answered()  # as the first probe of the health monitor

        self.clock.at(at, card.die)
        self.clock.at(at + _REPAIR_S, be_back)

    def _talking(self) -> float:
        """Return how many conversations there are at this time."""
        plan = self._plan
        hour = EVENING_H + self.clock.now / 3600 - plan.hours / 2
        slots = plan.rigs * plan.cards * plan.slots
        return slots * plan.load * share_of_peak(hour) * _TURN_S / _BUSY_S

    def _begin_amid(self) -> None:
        """Let those conversations go on that have begun before."""
        for _ in range(round(self._talking())):
            self._number += 1
            conversation = Conversation.begun(self._rng, self._number)
            for _ in range(self._rng.randrange(conversation.turns_left)):
                conversation.ask(self._rng)
                conversation.answer(answer_tokens(self._rng))
            start = partial(self.clock.spawn, self._talk, conversation)
            self.clock.at(self._rng.uniform(0, _TURN_S), start)

    def _begin_next(self) -> None:
        """Let a conversation begin, and the next one when it is time."""
        self._number += 1
        self.clock.spawn(self._talk, Conversation.begun(self._rng, self._number))
        per_s = self._talking() / (_TURN_S * _TURNS)
        self.clock.at(self.clock.now + self._rng.expovariate(per_s), self._begin_next)

    def _talk(self, conversation: Conversation) -> None:
        while conversation.turns_left > 0:
            prompt = Prompt.of(conversation.ask(self._rng))
            tokens = answer_tokens(self._rng)
            if self._served(conversation, prompt, tokens):
                conversation.answer(tokens)
            else:
                conversation.said.pop()
            self.clock.sleep(pause_s(self._rng))

    def _served(self, conversation: Conversation, prompt: Prompt, tokens: int) -> bool:
        """Let one request be served; return whether it was."""
        figures = self.figures
        info = RequestInfo(client=conversation.name, prompt=prompt, max_tokens=300)
        given = self._given(conversation, info, except_for=())
        begun: float | None = self.clock.now - info.queued_s
        dead: list[int] = []
        tried: list[Backend] = []
        while given is not None:
            number, lease = given
            cached = self._computed(self._cards[lease.backend], prompt, tokens, begun)
            if cached is not None:
                break
            lease.backend.has_failed("broken")
            lease.release()
            self._at_work[number] -= 1
            tried.append(lease.backend)
            figures.moved += 1
            begun = None
            if (again := self._taken(number, info, tried)) is not None:
                given = number, again
            else:  # the rig has no other card: the gateway goes on to the next one
                dead.append(number)
                self._left_out_until[number] = self.clock.now + _FAIL_TIMEOUT_S
                given = self._given(conversation, info, except_for=dead)
        else:
            figures.refused += 1
            return False
        self._account_for(conversation, prompt, cached, number, info)
        lease.has_answered(200)
        all_tokens = prompt.chars / CHARS_PER_TOKEN
        evaluated = max(1.0, all_tokens - cached / CHARS_PER_TOKEN)
        lease.learn(
            Usage(
                evaluated=evaluated,
                cached=all_tokens - evaluated,
                generated=tokens,
                prompt_s=evaluated / PROMPT_SPEED,
                decode_s=tokens / DECODE_SPEED,
            )
        )
        lease.release()
        self._at_work[number] -= 1
        return True

    def _given(
        self, conversation: Conversation, info: RequestInfo, *, except_for: Container[int]
    ) -> tuple[int, Lease] | None:
        """Find a rig as the gateway does (ADR 17): along the ring, then in a queue."""
        info.overflow = Overflow.WHEN_BUSY
        ring = self._open(self._ring.way(conversation.name), except_for)
        tries, found = self._asked(islice(ring, self._plan.max_tries or None), info)
        if found is None:
            info.overflow = Overflow.WHEN_FULL
            least_busy = sorted(range(self._plan.rigs), key=self._at_work.__getitem__)
            more, found = self._asked(self._open(least_busy, except_for), info)
            tries += more
        self.figures.tries.append(tries)
        return found

    def _open(self, rigs: Iterable[int], except_for: Container[int]) -> Iterator[int]:
        """Yield those that are not left out when their turn has come."""
        for rig in rigs:
            if rig not in except_for and self._left_out_until[rig] <= self.clock.now:
                yield rig

    def _asked(
        self, rigs: Iterable[int], info: RequestInfo
    ) -> tuple[int, tuple[int, Lease] | None]:
        """Ask one after the other; return how many were asked, and who has taken it."""
        tries = 0
        for tries, rig in enumerate(rigs, 1):
            if (lease := self._taken(rig, info)) is not None:
                return tries, (rig, lease)
        return tries, None

    def _taken(
        self, rig: int, info: RequestInfo, except_for: Container[Backend] = ()
    ) -> Lease | None:
        self._at_work[rig] += 1
        try:
            lease = self._pools[rig].take(except_for=except_for, info=info, client=Client())
        except ApiError:
            lease = None
        if lease is None:
            self._at_work[rig] -= 1
        return lease

    def _computed(
        self, card: _Card, prompt: Prompt, tokens: int, begun: float | None
    ) -> int | None:
        """Let a card work; return the cached characters, None if it has died meanwhile."""
        if not card.is_there:
            return None
        deaths = card.deaths
        cached = card.cache.look_up(prompt).cached_chars
        place = card.cache.begin(prompt)
        evaluated = max(1.0, (prompt.chars - cached) / CHARS_PER_TOKEN)
        self.clock.sleep(evaluated / PROMPT_SPEED)
        if begun is not None:
            self.figures.first_token_s.append(self.clock.now - begun)
        self.clock.sleep(tokens / DECODE_SPEED)
        place.end(answer_chars=tokens * CHARS_PER_TOKEN)
        if card.deaths != deaths:
            card.cache.forget()
            return None
        return cached

    def _account_for(
        self, conversation: Conversation, prompt: Prompt, cached: int, rig: int, info: RequestInfo
    ) -> None:
        figures = self.figures
        figures.requests += 1
        figures.by_rig[rig] += 1
        figures.queued_s.append(info.queued_s)
        figures.prompt_tokens += prompt.chars / CHARS_PER_TOKEN
        if conversation.rig is not None:
            figures.later_turns += 1
            figures.at_home += conversation.rig == rig
            figures.cached_tokens += cached / CHARS_PER_TOKEN
            figures.ideal_tokens += conversation.kept_chars() / CHARS_PER_TOKEN
        conversation.rig = rig
