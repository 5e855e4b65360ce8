"""Saves conversations that may be lost, and restores them ahead of the request that goes on.

    cache = ConversationCache(store, limits)
    pool = Pool(..., restoring=cache.restorable)
    request = cache.prepared(lease, request)    # in the request's greenlet, before it is sent
    cache.save_what_is_idle(backend)            # every now and then, see `keeper`

A request then names the slot that it was counted for, so that it is known what each slot holds.
That is begun when a backend was seen without work that is not this process's own, and never done
where llama-server may take several slots for one request.

Whatever fails here, the request goes on as if there were no file. Where saving fails or is slow it
pauses for a while, longer each time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from http import HTTPStatus

import gevent

from heartcode.routing.backend import Backend
from heartcode.routing.known_sequence import KnownSequence
from heartcode.routing.lease import SlotLease
from heartcode.routing.pool import Restorable
from heartcode.routing.prompt_hash import Prompt
from heartcode.telemetry import log, metrics
from heartcode.upstream.exchange import BackendError, Reason, UpstreamRequest
from heartcode.upstream.identity import Identity
from heartcode.warm import budget, slots
from heartcode.warm.key import state_key
from heartcode.warm.store import Entry, Found, Store, StoreError

# What llama-server reads `id_slot` of (server-context.cpp, handle_completions_impl). Of what comes
# to /v1/messages it makes a body of its own, without it (server-chat.cpp).
_COMPLETIONS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/completion", "/infill"}
)
# A slow disk holds a backend up for no longer than this.
_MOST_S = 30.0
# A save that takes longer than this is too slow to be repeated soon.
_SLOW_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 3600.0
_LOOK_S = 2.0
# How long its unit may wait before it ends, with a reserve.
_STOP_S = 10.0
# Ahead of a request a file is written where that takes at most this part of evaluating it, ...
_WORTH = 0.25
# ... and read where evaluating would take longer, and longer than this.
_LITTLE_S = 0.05
# English prose, as the prior of `Lengths`.
_CHARS_PER_TOKEN = 4.0
# A model whose states are of no use when they are back (not all of them keep every token's K and V)
# is left alone after this many.
_USELESS_AFTER = 3
_USED_LITTLE = 0.25


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a conversation is saved.

    Attributes:
        idle_s: after how many seconds without use.
        min_tokens: from how many on.
    """

    idle_s: float
    min_tokens: int


@dataclass(kw_only=True, eq=False)
class _Side:
    """What is known of one backend."""

    is_ours: bool = False
    saving_now: int = 0
    is_unsaved: bool = False
    committing: int = 0
    identity: Identity | None = None
    key: str = ""
    pause_s: float = 0.0
    pause_until: float = 0.0
    restored: SlotLease | None = None
    promised_tokens: float = 0.0
    useless: int = 0


class ConversationCache:
    """The conversations of a rig, in files.

    Args:
        store: the files.
        limits: when a conversation is saved.
        clock: seconds; that of the pool.
    """

    def __init__(
        self, store: Store, limits: Limits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._limits = limits
        self._clock = clock
        self._sides: dict[Backend, _Side] = {}
        self._is_retired = False

    @property
    def secret(self) -> bytes:
        """What the hashes of prompts have to be made with."""
        return self._store.secret

    def retire(self) -> None:
        """Leave the slots to another process: it takes all new requests from now on."""
        self._is_retired = True

    def refresh(self) -> None:
        """See what has become of the files."""
        try:
            self._store.refresh()
        except OSError as error:
            log.backend_event("warm_lost", backend="", level=logging.ERROR, why=str(error))
        metrics.WARM_BYTES.set(self._store.size)
        metrics.WARM_CONVERSATIONS.set(len(self._store))

    # --- restoring -------------------------------------------------------------------------------

    def restorable(self, backend: Backend, prompt: Prompt) -> Restorable | None:
        """Return what a file has of `prompt` for `backend`, see `Pool`."""
        side = self._side(backend)
        if not side.is_ours or not (found := self._found(backend, side, prompt)):
            return None
        return Restorable(chars=found.chars, seconds=_reading_s(backend, found.entry))

    def prepared(self, lease: SlotLease, request: UpstreamRequest) -> UpstreamRequest:
        """Return the request with which `lease` is asked, its conversation restored if it can be.

        Raises:
            BackendError: the backend cannot be relied on any more.
        """
        backend = lease.backend
        side = self._side(backend)
        body = None
        if request.path in _COMPLETIONS and not request.has_choices and request.body is not None:
            body = slots.naming(request.body, lease.place.number)
        if body is None:
            # It takes slots that nobody has named, perhaps one that is to be named next.
            side.is_ours = False
        if body is None or not self._has_slots(lease, side):
            backend.cache.is_unsure()
            return request
        if self._key(backend, side):
            self._judge_the_last(backend, side)
            self._save_former(lease, side)
            self._restore(lease, side)
        lease.place.is_asked_for()
        return replace(request, body=body)

    def _has_slots(self, lease: SlotLease, side: _Side) -> bool:
        if self._is_retired:
            return False
        if not side.is_ours and lease.backend.leases == {lease}:
            try:
                side.is_ours = slots.are_idle(lease.backend, timeout_s=_LOOK_S)
            except (BackendError, slots.RefusedError):
                return False  # the request itself will tell
        return side.is_ours

    def _found(self, backend: Backend, side: _Side, prompt: Prompt) -> Found | None:
        key = self._key(backend, side)
        if not key or side.useless >= _USELESS_AFTER:
            return None
        return self._store.best(key, prompt)

    def _restore(self, lease: SlotLease, side: _Side) -> None:
        backend, place, prompt = lease.backend, lease.place, lease.info.prompt
        found = self._found(backend, side, prompt)
        if found is None:
            return
        gained = (found.chars - place.match.cached_chars) * lease.tokens_per_char
        gained_s = gained / backend.throughput.prompt.value
        cost_s = _reading_s(backend, found.entry)
        if gained_s < max(_LITTLE_S, cost_s):
            return
        if not self._store.is_there(found.entry):
            self._count_restore(backend, "lost")
            self._store.drop(found.entry)
            return
        self._read(lease, side, found, timeout_s=min(_MOST_S, _LOOK_S + gained_s))

    def _read(self, lease: SlotLease, side: _Side, found: Found, *, timeout_s: float) -> None:
        backend, number, entry = lease.backend, lease.place.number, found.entry
        # While llama-server reads it, and before anybody relies on it.
        began = self._clock()
        intact = gevent.get_hub().threadpool.spawn(self._store.is_intact, entry)
        try:
            restored = slots.restore(
                backend, number, entry.file, timeout_s=timeout_s, abort_when=lease.when_given_up
            )
        except slots.RefusedError as error:
            self._count_restore(backend, "refused", why=str(error))
            if error.status != HTTPStatus.NOT_IMPLEMENTED:
                self._store.drop(entry)
            return
        except BackendError as error:
            self._count_restore(backend, error.reason.value)
            if lease.is_given_up or error.reason is Reason.UNREACHABLE:
                raise
            if error.reason is Reason.SILENT:  # it is slower than that at best
                backend.throughput.reading.learn(entry.size, self._clock() - began)
            # It may go on with it, and nobody has seen whether it is what was written.
            self._empty(backend, number)
            return
        finally:
            lease.place.is_restored()
            budget.spend(backend.at_work - {lease}, since=began)
        backend.throughput.reading.learn(restored.size, restored.seconds)
        if not intact.get():
            self._store.drop(entry)
            self._count_restore(backend, "damaged")
            self._empty(backend, number)
            return
        self._count_restore(backend, "restored")
        lease.restored_tokens = restored.tokens
        side.restored = lease
        side.promised_tokens = min(restored.tokens, found.chars * lease.tokens_per_char)
        self._store.touch(entry)

    def _empty(self, backend: Backend, number: int) -> None:
        try:
            slots.erase(backend, number, timeout_s=_MOST_S)
        except slots.RefusedError as error:
            raise BackendError(Reason.BROKEN, f"slot {number} cannot be emptied") from error

    def _judge_the_last(self, backend: Backend, side: _Side) -> None:
        """Take whether what was restored last was of any use."""
        last = side.restored
        if last is None or last.cached_tokens is None:
            return
        side.restored = None
        # Of a file that begins alike and goes on otherwise only the beginning was to be of use.
        is_used = last.cached_tokens >= _USED_LITTLE * side.promised_tokens
        side.useless = 0 if is_used else side.useless + 1
        if side.useless == _USELESS_AFTER:
            why = "what was restored is read again: this model keeps more than K and V"
            log.backend_event("warm_useless", backend=backend.name, why=why)

    # --- saving ----------------------------------------------------------------------------------

    def save_what_is_idle(self, backend: Backend) -> None:
        """Save what nobody has asked for in a while, as long as that holds up nobody for long.

        Where somebody is about to stop the backend, all that is idle is saved, and at once.
        """
        side = self._side(backend)
        is_stopped = backend.served.was_stopped(within_s=_STOP_S)
        for number, sequence, idle_s in tuple(backend.cache.idle()):
            if not self._is_wanted(backend, side, sequence):
                continue
            if not is_stopped and not self._may_be_saved(backend, sequence, idle_s):
                continue
            if backend.cache.is_held(number, sequence):
                self._save(
                    backend,
                    side,
                    number,
                    sequence,
                    is_still_there=partial(backend.cache.is_held, number, sequence),
                )
        self._note_unsaved(backend, side)

    def _may_be_saved(self, backend: Backend, sequence: KnownSequence, idle_s: float) -> bool:
        if idle_s < self._limits.idle_s:
            return False
        return budget.allows(backend.at_work, self._seconds(backend, sequence))

    def _note_unsaved(self, backend: Backend, side: _Side) -> None:
        is_unsaved = side.committing > 0 or any(
            self._is_wanted(backend, side, sequence) for _, sequence, _ in backend.cache.idle()
        )
        if is_unsaved != side.is_unsaved:
            side.is_unsaved = is_unsaved
            backend.served.note_unsaved(is_unsaved=is_unsaved)

    def _is_wanted(self, backend: Backend, side: _Side, sequence: KnownSequence) -> bool:
        return (
            side.is_ours
            and not self._is_retired
            and sequence.is_placed
            and not sequence.is_saved
            and self._clock() >= side.pause_until
            and side.useless < _USELESS_AFTER
            and backend.breaker.is_proven
            and self._tokens(sequence) >= self._limits.min_tokens
            and self._key(backend, side) != ""
        )

    def _save_former(self, lease: SlotLease, side: _Side) -> None:
        """Save what the request is about to overwrite, if that is worth the wait."""
        backend, former = lease.backend, lease.place.former
        if former is None or not self._is_wanted(backend, side, former):
            return
        if 2 * former.shared_with(lease.info.prompt) >= former.chars:
            return  # it is what the request goes on with
        seconds = self._seconds(backend, former)
        evaluated_s = self._tokens(former) / backend.throughput.prompt.value
        others = backend.at_work - {lease}
        if seconds <= _WORTH * evaluated_s and budget.allows(others, seconds):
            # Nobody but this request can reach the slot.
            self._save(backend, side, lease.place.number, former, is_still_there=lambda: True)

    def _save(
        self,
        backend: Backend,
        side: _Side,
        number: int,
        sequence: KnownSequence,
        *,
        is_still_there: Callable[[], bool],
    ) -> None:
        seconds = self._seconds(backend, sequence)
        if not self._store.room_for(round(self._bytes(backend, sequence))):
            self._saving_failed(backend, side, "no_room")
            return
        name, key = self._store.new_name(), self._key(backend, side)
        began = self._clock()
        side.saving_now += 1
        backend.is_occupied, backend.occupied_until = True, began + seconds
        # Nobody else shall save it meanwhile.
        sequence.is_saved = True
        try:
            saved = slots.save(backend, number, self._store.part(name), timeout_s=_MOST_S)
        except (BackendError, slots.RefusedError) as error:
            self._store.discard(name)
            self._saving_failed(backend, side, _result(error), why=str(error))
            sequence.is_saved = False
            return
        finally:
            # As long as they noticed, and not what llama-server has counted alone.
            budget.spend(backend.at_work, since=began)
            side.saving_now -= 1
            backend.is_occupied = side.saving_now > 0
            backend.occupied_until = 0.0
        backend.throughput.writing.learn(saved.size, saved.seconds)
        if not is_still_there() or saved.tokens < self._limits.min_tokens:
            # Somebody has come in between: what is in the file is not known.
            self._store.discard(name)
            return
        backend.throughput.state_bytes.learn(saved.size, saved.tokens)
        commit = partial(
            self._store.commit,
            name,
            key=key,
            sequence=sequence,
            tokens=saved.tokens,
            size=saved.size,
        )
        side.committing += 1
        gevent.spawn(self._commit, backend, side, commit)
        if saved.seconds > _SLOW_S:
            self._saving_failed(backend, side, "slow", why=f"{saved.seconds:.1f} s")

    def _commit(self, backend: Backend, side: _Side, commit: Callable[[], Entry]) -> None:
        threads = gevent.get_hub().threadpool
        try:
            entry = threads.apply(commit)
            self._store.add(entry)
            threads.apply(self._store.secure, (entry,))
        except StoreError as error:
            self._saving_failed(backend, side, "lost", why=str(error))
            return
        finally:
            side.committing -= 1
        if self._clock() >= side.pause_until:
            side.pause_s = 0.0
        metrics.WARM_SAVES.labels(backend=backend.name, result="saved").inc()

    def _saving_failed(self, backend: Backend, side: _Side, result: str, why: str = "") -> None:
        side.pause_s = min(_LONGEST_PAUSE_S, 2 * side.pause_s or _FIRST_PAUSE_S)
        side.pause_until = self._clock() + side.pause_s
        metrics.WARM_SAVES.labels(backend=backend.name, result=result).inc()
        log.backend_event(
            "not_saved",
            backend=backend.name,
            level=logging.WARNING,
            result=result,
            why=why,
            pause_s=side.pause_s,
        )

    # --- what is known ---------------------------------------------------------------------------

    def _side(self, backend: Backend) -> _Side:
        side = self._sides.get(backend)
        if side is None:
            side = self._sides[backend] = _Side()
            # From the first one on a rate can be told.
            metrics.WARM_SAVES.labels(backend=backend.name, result="saved")
            metrics.WARM_RESTORES.labels(backend=backend.name, result="restored")
        return side

    def _key(self, backend: Backend, side: _Side) -> str:
        served = backend.served
        if served.identity is None or served.is_other:
            return ""
        if side.identity is not served.identity:
            side.identity = served.identity
            side.key = state_key(served.identity, kv_cache=served.kv_cache())
            side.useless = 0
        return side.key

    def _tokens(self, sequence: KnownSequence) -> float:
        # Of one that was broken off nobody has told; the file will.
        return sequence.tokens or sequence.chars / _CHARS_PER_TOKEN

    def _bytes(self, backend: Backend, sequence: KnownSequence) -> float:
        return self._tokens(sequence) * backend.throughput.state_bytes.value

    def _seconds(self, backend: Backend, sequence: KnownSequence) -> float:
        return self._bytes(backend, sequence) / backend.throughput.writing.value

    def _count_restore(self, backend: Backend, result: str, why: str = "") -> None:
        metrics.WARM_RESTORES.labels(backend=backend.name, result=result).inc()
        if result != "restored":
            log.backend_event(
                "not_restored", backend=backend.name, level=logging.WARNING, result=result, why=why
            )


def _reading_s(backend: Backend, entry: Entry) -> float:
    return entry.size / backend.throughput.reading.value


def _result(error: BackendError | slots.RefusedError) -> str:
    return error.reason.value if isinstance(error, BackendError) else "refused"
