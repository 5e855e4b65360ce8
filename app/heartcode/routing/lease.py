"""A backend that works on one request, until it is released."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus

from heartcode.routing.backend import Backend
from heartcode.routing.prefix_cache import Place
from heartcode.routing.request_info import RequestInfo
from heartcode.routing.throughput import Lengths
from heartcode.upstream.usage import Usage

# A share of the expected answer that is always taken to be left: what has run for longer than
# expected will not end at once for that.
_NEVER_LESS = 0.25


class Lease:
    """A backend that works on one request until released, and needs no slot for it.

    Attributes:
        began: when it was given, by the clock of the pool.
        is_given_up: whether the proxy has let go of its backend, which hangs or is stopped.
        held_up_s: for how long its backend has done something else since its answer began, or the
            reading of its prompt while there is none.
    """

    def __init__(self, backend: Backend, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.backend = backend
        self._clock = clock
        self.began = self._served_since = clock()
        self.held_up_s = 0.0
        self.is_given_up = False
        self._abort: Callable[[], None] | None = None
        # While all candidates are avoided, a request is what finds out whether one works again.
        self._trial = backend.breaker.begin_trial()
        self._enter()

    def _enter(self) -> None:
        self.backend.questions.add(self)

    @property
    def served_s(self) -> float:
        """How long its answer has been coming, or its prompt been read while there is none."""
        return self._clock() - self._served_since

    def hold_up(self, since: float) -> None:
        """Note that its backend has done something else from then on."""
        self.held_up_s += self._clock() - max(since, self._served_since)

    def has_answered(self, status: int) -> None:
        """Note that an answer has begun.

        What needs no slot is answered beside the loop that generates, and says nothing of it.
        """

    def learn(self, usage: Usage | None) -> None:
        """Take what the backend said about its answer when it was complete."""

    @property
    def was_stopped(self) -> bool:
        """Whether somebody has stopped the backend on purpose since this began."""
        return self.backend.served.was_stopped(within_s=self._clock() - self.began)

    def when_given_up(self, abort: Callable[[], None]) -> None:
        """Call `abort`, which must not block, when the proxy lets go of the backend."""
        self._abort = abort

    def give_up(self) -> None:
        """Wait no more: the backend hangs, or is stopped."""
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
        info: what is known of the request.
        prompt_s: how long its prompt will probably take, from now on.
        lengths: what is known about the lengths of texts; it is told of this answer.
        clock: seconds.
        released: called when the slot is free again.

    Attributes:
        info: what is known of the request.
        prompt_done: when its prompt will probably have been evaluated, by `clock`.
        restored_tokens: how many a file has brought into its slot.
        cached_tokens: how many of the prompt's were in the slot; None until the backend has told.
    """

    def __init__(
        self,
        backend: Backend,
        info: RequestInfo,
        *,
        prompt_s: float,
        lengths: Lengths,
        clock: Callable[[], float],
        released: Callable[[], None],
    ) -> None:
        self.info = info
        self.restored_tokens = 0
        self.cached_tokens: int | None = None
        self._lengths = lengths
        self._clock = clock
        self._released = released
        self.prompt_done = clock() + prompt_s
        self._answer_s = (
            lengths.answer_of_at_most(info.max_tokens) / backend.throughput.decode.value
        )
        self._answer_chars = self._tokens = 0
        self._place: Place | None = backend.cache.begin(info.prompt)
        super().__init__(backend, clock=clock)

    def _enter(self) -> None:
        self.backend.leases.add(self)

    def has_answered(self, status: int) -> None:
        """Note that an answer has begun; a refusal comes from beside the loop as well."""
        self._served_since, self.held_up_s = self._clock(), 0.0
        if status == HTTPStatus.OK:
            self.backend.has_answered()

    @property
    def place(self) -> Place:
        """The slot that it has.

        Raises:
            RuntimeError: it has been released.
        """
        if self._place is None:
            raise RuntimeError("the lease is released")
        return self._place

    @property
    def tokens_per_char(self) -> float:
        """Tokens of a prompt per character of it, as learnt from answers."""
        return self._lengths.tokens_per_char.value

    def left_s(self, now: float) -> float:
        """Return in how many seconds it will probably be over."""
        answer_left = min(self._answer_s, self.prompt_done + self._answer_s - now)
        return max(0.0, self.prompt_done - now) + max(_NEVER_LESS * self._answer_s, answer_left)

    def learn(self, usage: Usage | None) -> None:
        """Correct the backend's speeds, the lengths of texts and what its cache holds."""
        if usage is None:
            return
        self.backend.throughput.learn(usage)
        self._lengths.learn(usage, prompt_chars=self.info.prompt.chars)
        self.cached_tokens = round(usage.cached)
        self.info.restored_tokens = min(self.restored_tokens, self.cached_tokens)
        tokens_per_char = self._lengths.tokens_per_char.value
        if self._place is not None and not self.info.reads_anew:
            self._place.found(round(usage.cached / tokens_per_char))
        self._answer_chars = round(usage.generated / tokens_per_char)
        self._tokens = round(usage.evaluated + usage.cached + usage.generated)

    def release(self) -> None:
        """Free the slot; whoever waits for one is called."""
        if self._place is None:
            return
        self._place.end(answer_chars=self._answer_chars, tokens=self._tokens)
        self._place = None
        self.backend.leases.discard(self)
        self.backend.breaker.end_trial(self._trial)
        self._released()
