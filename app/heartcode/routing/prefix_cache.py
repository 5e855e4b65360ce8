"""Which conversations a llama-server's KV cache probably still holds.

    cache = PrefixCache(slots=2, host_chars=0)
    cache.look_up(prompt).cached_chars       # what would be found there
    place = cache.begin(prompt)              # the request goes there
    place.end(answer_chars=320)              # its answer is complete

It follows what llama-server does (tools/server/server-context.cpp, get_available_slot, and
server-task.cpp, server_prompt_cache, at the pinned version): a request goes into the idle slot that
shares the longest beginning with it, if that is more than a tenth of the prompt, else into the one
that was used longest ago. What a slot held beyond that beginning is overwritten. If more than half
of it would be lost, and with `--cache-ram`, it is first copied to host memory, from which it comes
back when a prompt continues it; the oldest copy goes first.

Lengths are in characters, as the tokens are not known here. Memory is bounded: `slots` sequences
and at most `MAX_HOST_SEQUENCES` copies, each of at most `prompt_hash.MAX_BLOCKS` hashes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from heartcode.routing.known_sequence import KnownSequence
from heartcode.routing.prompt_hash import Prompt

MAX_HOST_SEQUENCES = 64

# llama-server: --slot-prompt-similarity, and two constants in its code.
_SIMILAR = 0.1
_LITTLE_IS_KEPT = 0.5
_WORTH_LOADING = 0.25
# Every prompt begins with a token that all have in common, some with none.
_NOTHING_CHARS = 16

_USED = attrgetter("used")


@dataclass(slots=True, eq=False)
class _Slot:
    number: int
    used: float
    sequence: KnownSequence | None = None


@dataclass(kw_only=True, slots=True)  # not frozen: a request makes one for each backend
class Match:
    """What a request would find in a cache, and what it would overwrite.

    Attributes:
        cached_chars: how much of the prompt need not be evaluated.
        lost_chars: how much of another conversation would be gone.
        lost_idle_s: how long ago that conversation was used last, in seconds.
    """

    cached_chars: int = 0
    lost_chars: int = 0
    lost_idle_s: float = 0.0


class _Choice(NamedTuple):
    slot: _Slot
    saved: bool
    loaded: KnownSequence | None
    match: Match


class PrefixCache:
    """The sequences of one llama-server: in its slots and, with `host_chars`, in host memory."""

    def __init__(
        self, *, slots: int, host_chars: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._host_chars = host_chars
        self._slots = [_Slot(number=number, used=clock()) for number in range(slots)]
        # In the order of their last use. The values mean nothing: a dictionary keeps the order.
        self._idle = dict.fromkeys(self._slots)
        self._host: list[KnownSequence] = []  # the oldest first

    @property
    def sequences(self) -> int:
        """How many sequences are remembered."""
        return len(self._host) + sum(slot.sequence is not None for slot in self._slots)

    def look_up(self, prompt: Prompt) -> Match:
        """Return what `prompt` would find here; with no idle slot, if all of them were idle."""
        return self._choose(prompt, self._idle or self._slots).match

    def begin(self, prompt: Prompt) -> Place:
        """Let `prompt` take the slot that llama-server would give it.

        Raises:
            RuntimeError: when no slot is idle.
        """
        if not self._idle:
            raise RuntimeError("no slot is idle")
        choice = self._choose(prompt, self._idle)
        slot, former = choice.slot, choice.slot.sequence
        older: list[KnownSequence] = []
        if choice.loaded is not None:
            place = self._host.index(choice.loaded)
            older = self._host[:place]
            del self._host[place]
        if choice.saved and former is not None:
            self._save(former)
        slot.sequence = KnownSequence(prompt.blocks, prompt.chars, prompt.open_ended)
        del self._idle[slot]
        return Place(
            self,
            slot,
            match=choice.match,
            promised=choice.match if choice.loaded else Match(),
            former=former,
            older=older,
        )

    def forget(self) -> None:
        """Note that the llama-server has lost everything; requests still end as they would."""
        self._host.clear()
        for slot in self._slots:
            slot.sequence = None

    def idle(self) -> Iterator[tuple[int, KnownSequence, float]]:
        """Yield each idle slot that holds something: its number, what, and for how many seconds."""
        now = self._clock()
        for slot in self._idle:
            if slot.sequence is not None:
                yield slot.number, slot.sequence, now - slot.used

    def is_held(self, number: int, sequence: KnownSequence) -> bool:
        """Return whether the slot of that number is idle and still holds `sequence`."""
        return any(s.number == number and s.sequence is sequence for s in self._idle)

    def is_unsure(self) -> None:
        """Note that llama-server has chosen slots itself: which one holds what is a guess now."""
        for slot in self._slots:
            if slot.sequence is not None:
                slot.sequence.is_placed = False

    def end(self, slot: _Slot) -> None:
        """Note that a slot is idle."""
        slot.used = self._clock()
        self._idle[slot] = None

    def idle_are_gone(self) -> None:
        """Note that nothing is left of what nobody is asking for."""
        self._host.clear()
        for slot in self._idle:
            slot.sequence = None

    def are_gone(self, copies: list[KnownSequence]) -> None:
        """Forget copies that are not in host memory any more."""
        self._host = [sequence for sequence in self._host if sequence not in copies]

    def _choose(self, prompt: Prompt, slots: Collection[_Slot]) -> _Choice:
        most, slot = _most_alike(prompt, slots)
        oldest = most <= _SIMILAR * prompt.chars
        if slot is None or oldest:
            nothing_is_alike = slot is None
            slot = next(iter(slots)) if slots is self._idle else min(slots, key=_USED)
            most = 0 if nothing_is_alike else _shared(slot.sequence, prompt)
        held = slot.sequence.chars if slot.sequence else 0
        exchanged = oldest or most < _LITTLE_IS_KEPT * held
        saved = exchanged and 0 < held <= self._host_chars
        # What is in a file besides is not lost.
        is_kept = slot.sequence is not None and slot.sequence.is_saved
        lost, loaded = 0 if is_kept else max(0, held - most), None
        if exchanged and self._host:
            loaded = self._best_copy(prompt, most, held)
        if saved and not is_kept:  # for which other copies may have to go
            kept = sum(sequence.chars for sequence in self._host if sequence is not loaded)
            lost = max(0, min(held, kept + held - self._host_chars))
        match = Match(
            cached_chars=max(most, _shared(loaded, prompt)) if loaded else most,
            lost_chars=lost,
            lost_idle_s=max(0.0, self._clock() - slot.used),
        )
        return _Choice(slot, saved, loaded, match)

    def _best_copy(self, prompt: Prompt, most: int, held: int) -> KnownSequence | None:
        """Return the copy that is better than what the slot has: in length and in share kept."""
        best, kept = None, most / held if held else -1.0
        for sequence in self._host:
            shared = sequence.shared_with(prompt)
            share = shared / sequence.chars
            if share >= _WORTH_LOADING and share > kept and shared > most:
                best, kept, most = sequence, share, shared
        return best

    def _save(self, sequence: KnownSequence) -> None:
        self._host.append(sequence)
        total = sum(sequence.chars for sequence in self._host)
        while total > self._host_chars or len(self._host) > MAX_HOST_SEQUENCES:
            total -= self._host.pop(0).chars


class Place:
    """The slot in which a request is computed; to be ended once.

    Args:
        cache: whose slot it is.
        slot: the slot.
        match: what the request would find there.
        promised: what a copy in host memory would have given.
        former: what was in the slot.
        older: the copies that would have gone before that copy.

    Attributes:
        number: the slot's.
    """

    def __init__(
        self,
        cache: PrefixCache,
        slot: _Slot,
        *,
        match: Match,
        promised: Match,
        former: KnownSequence | None,
        older: list[KnownSequence],
    ) -> None:
        self.number = slot.number
        self.match = match
        self.former = former
        self._cache = cache
        self._slot = slot
        self._sequence = slot.sequence
        self._promised = promised
        self._older = older

    def begins_anew(self) -> None:
        """Note that the llama-server has lost everything, and gets this request first."""
        self._cache.forget()
        self._slot.sequence = self._sequence
        self.match = self._promised = Match()
        self.former = None

    def is_asked_for(self) -> None:
        """Note that the request names this slot, so that it is known to be there."""
        if self._sequence is not None:
            self._sequence.is_placed = True

    def is_restored(self) -> None:
        """Note that a file was read into the slot, or was to be.

        What it held is gone, and has no copy in host memory.
        """
        self.match = self._promised = Match()
        if self.former is not None:
            self._cache.are_gone([self.former])

    def found(self, cached_chars: int) -> None:
        """Take how much of the prompt really came from the cache.

        If a copy was not there, older ones are not there either. The slot that was asked needs no
        correction: it holds the prompt by now. But if it was named, and had nothing of what it was
        sure to hold, its llama-server has been started anew, or somebody has emptied the slots past
        the proxy: the others hold nothing either.
        """
        if cached_chars < self._promised.cached_chars / 2:
            self._cache.are_gone(self._older)
        elif self._is_sure and cached_chars <= _NOTHING_CHARS < self.match.cached_chars:
            self._cache.idle_are_gone()

    @property
    def _is_sure(self) -> bool:
        # That a request names a slot says nothing of a copy that was to be loaded into it.
        is_named = self._sequence is not None and self._sequence.is_placed
        was_there = self.former is not None and self.former.is_placed
        return is_named and was_there and not self._promised.cached_chars

    def end(self, *, answer_chars: int = 0, tokens: int = 0) -> None:
        """Note that the slot is idle; it keeps the prompt and the answer."""
        if self._sequence is not None:
            self._sequence.answer_chars = max(0, answer_chars)
            self._sequence.tokens = tokens
        self._cache.end(self._slot)


def _most_alike(prompt: Prompt, slots: Iterable[_Slot]) -> tuple[int, _Slot | None]:
    """Return how many characters of `prompt` a slot begins with at most, and which."""
    blocks, most, best = prompt.blocks, 0, None
    first = blocks[0] if blocks else None  # as `first_of()` says
    for slot in slots:
        # Asked of every slot of the rig for every request: most differ from the beginning.
        sequence = slot.sequence
        if sequence is not None and sequence.first == first:
            shared = sequence.shared_with(prompt)
            if shared > most:
                most, best = shared, slot
    return most, best


def _shared(sequence: KnownSequence | None, prompt: Prompt) -> int:
    return sequence.shared_with(prompt) if sequence else 0
