"""A stream as one backend sends it, as far as the client is to get it."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from time import monotonic

from heartcode.errors import ApiError
from heartcode.relay import sse
from heartcode.relay.buffered import MAX_HELD_BYTES
from heartcode.relay.fast_path import ClientWriter, Signs, while_readable
from heartcode.relay.splice import Splice, SpliceError
from heartcode.routing.lease import Lease
from heartcode.upstream import chunked, progress
from heartcode.upstream.exchange import BackendError, Exchange, Reason, failure
from heartcode.upstream.usage import Usage, UsageOfChoices

_PIECE_BYTES = 8 * 1024
# How much is shown of an error that a backend tells.
_SHOWN_BYTES = 300
# What a comment begins with.
_COLON = ord(":")
_EVENT_IN_CHUNK_END = sse.EVENT_END + chunked.END


def broken(event: bytes) -> Exception:
    """Return what it means that a llama-server says amid a stream that it has failed."""
    return BackendError(Reason.BROKEN, event[:_SHOWN_BYTES].decode(errors="replace"))


class BackendStream:
    """The events that one backend sends, as far as the client is to get them.

    From the first token on the backend may pause for `token_silence_s` at most.

    Args:
        exchange: the connection, whose head is there.
        lease: the backend.
        token_silence_s: see above.
        hides_progress, has_choices: as of the `UpstreamRequest`.
        splice: makes the events a part of what came before.
        failure: what it means that an event says that the backend has failed.
        on_comment: takes what comments come with; with it they are signs of life as well, which
            holds of rigs and not of llama-servers.

    Attributes:
        status: the answer's HTTP status.
        reads_prompt: whether no token has come yet.
        last_heard: when the backend said something last (`time.monotonic()`); comments are nothing.
        usage: what the backend told at the end, for the whole answer; None if nothing.
        prompt_tokens: the length of the prompt, as its progress tells it; 0 if it does not.
    """

    def __init__(
        self,
        exchange: Exchange,
        lease: Lease,
        *,
        token_silence_s: float,
        hides_progress: bool,
        has_choices: bool = False,
        splice: Splice | None = None,
        failure: Callable[[bytes], Exception] = broken,
        on_comment: Callable[[bytes], None] | None = None,
    ) -> None:
        self.status = exchange.status
        self._exchange = exchange
        self._lease = lease
        self._token_silence_s = token_silence_s
        self._hides_progress = hides_progress
        self.reads_prompt = True
        self.last_heard = 0.0
        self.usage: Usage | None = None
        self.prompt_tokens = 0
        self._splice = splice
        self._failure = failure
        self._on_comment = on_comment
        self._choices = UsageOfChoices() if has_choices else None
        self._events = sse.WholeEvents()
        self._error = b""
        self._reading = progress.Reading()
        self._prelude = b""
        self._first = b""
        # The end of the stream tells tokens and times; [DONE] may come by itself.
        self._last = self._last_but_one = b""
        self._held = ExitStack()

    def wait_for_first(self) -> None:
        """Return when there is something to pass on.

        Raises:
            BackendError: when that fails.
            ApiError: when another backend's answer cannot be continued here.
        """
        self._first = self.read()
        if not self._first:
            raise BackendError(Reason.BROKEN, "a stream without events")

    @property
    def opening(self) -> str:
        """What of the text no backend has generated, see `progress.Reading`."""
        return self._reading.opening

    def keep(self, held: ExitStack) -> None:
        """Hold what the events need, the backend's lease and the connection, until `close()`."""
        self._held = held

    def read(self) -> bytes:
        """Return the next complete events; b"" at the proper end of the stream."""
        if self._first:
            first, self._first = self._first, b""
            return first
        heard = self._exchange.last_heard
        while data := self._exchange.read_some():
            if events := self._passable(data, heard):
                return events
            heard = self._exchange.last_heard
        self._end()
        return b""

    def pour(
        self,
        writer: ClientWriter,
        keep_time: Callable[[float], None],
        keep: Callable[[bytes], None],
        *,
        signs: Signs | None = None,
    ) -> bool:
        """Let `writer` have the events as they arrive, until it can take no more or they end.

        For all that it gets, `keep_time` is told when it came and `keep` what it was. This happens
        in the event loop, without a greenlet that would have to be woken for every token, so none
        of them may block. Returns whether there may be more events.

        Raises:
            BackendError: when the backend fails.
            ApiError: when another backend's answer cannot be continued here.
        """
        exchange = self._exchange
        if not exchange.is_complete:
            try:
                while_readable(exchange, self._step(writer, keep_time, keep), signs=signs)
            except OSError as error:
                raise failure(error) from error
        if not exchange.is_complete:
            return True
        self._end()
        return False

    def _step(
        self,
        writer: ClientWriter,
        keep_time: Callable[[float], None],
        keep: Callable[[bytes], None],
    ) -> Callable[[], bool]:
        """Return what `pour()` does whenever there is something to read."""
        # What is needed for every token, at hand.
        exchange, backend, parts = self._exchange, self._lease.backend, self._events
        source, write_as_it_is = exchange.fileno(), writer.write_as_it_is
        heads, end = chunked.HEADS, -len(chunked.END)
        is_straight = writer.is_chunked and self._splice is None and self._choices is None

        def step() -> bool:
            try:
                # Not the socket's own method, which would try, fail and wait.
                piece = os.read(source, _PIECE_BYTES)
            except BlockingIOError:
                return True
            # The hot path: what came is one chunk, and what is in it whole events. It goes out as
            # it came. Every call less counts here, see docs/adr/0011-the-hot-path.md.
            head = heads.get(len(piece))
            if (
                head
                and piece.startswith(head)
                and piece.endswith(_EVENT_IN_CHUNK_END)
                and piece[len(head)] != _COLON
                and not piece.startswith(sse.ERRORS, len(head))
                and is_straight
                and exchange.is_between_chunks
                and not parts.torn
            ):
                events = piece[len(head) : end]
                self._last_but_one, self._last = self._last, events
                now = exchange.last_heard = backend.last_heard = monotonic()
                keep_time(now)
                keep(events)
                return write_as_it_is(piece)
            heard = exchange.last_heard
            events = self._passable(exchange.take_in(piece), heard)
            if events:
                keep_time(exchange.last_heard)
                keep(events)
            return (not events or writer.write_now(events)) and not exchange.is_complete

        return step

    def _passable(self, data: bytes, heard: float) -> bytes:
        """Take what has arrived; return the complete events that the client is to get.

        `heard` is when the backend said something before. A llama-server's comment is neither a
        token nor a sign that it works; the client gets this proxy's own.
        """
        whole = self._events.feed(data)
        events = sse.without_comments(whole)
        if self._on_comment is not None and events is not whole:
            self._on_comment(whole)
        if not events and self._events.torn[:1] in (b"", b":"):
            if self._on_comment is None:
                self._exchange.last_heard = heard
            return events
        events = self._before_error(events)
        self.last_heard = self._lease.backend.last_heard = self._exchange.last_heard
        if not events:
            if len(self._events.torn) > MAX_HELD_BYTES:
                raise BackendError(Reason.BROKEN, "an event without end")
            return events
        self._last_but_one, self._last = self._last, events
        if self._choices is not None:
            self._choices.note(events)
        if self.reads_prompt:
            events = self._while_it_reads(events)
        if events and self._splice is not None:
            events = self._spliced(events, self._splice)
        return events

    def _before_error(self, events: bytes) -> bytes:
        """Return the events before one that says that the backend has failed.

        Raises:
            BackendError: when there are none, or it has said so before.
        """
        if not self._error and (at := sse.error_at(events)) >= 0:
            events, self._error = events[:at], events[at:]
            if events:
                return events
        if self._error:
            raise self._failure(self._error)
        return events

    def _end(self) -> None:
        self._before_error(b"")
        if self._events.torn:
            raise BackendError(Reason.BROKEN, "the last event is cut short")
        if not sse.has_last_word(self._last_but_one + self._last):
            raise BackendError(Reason.BROKEN, "a stream without its last event")
        self._learn()

    def conclude(self) -> bool:
        """Take the events for all there are, though the exchange has failed behind them.

        Returns whether they are, as the last one says; then what they tell of tokens and times is
        learnt.
        """
        last = self._last_but_one + self._last
        # Each of several answers may have a last event of its own.
        is_over = sse.has_last_word(last) if self._choices is None else sse.begins(last, sse.DONE)
        if not is_over or self._error or self._events.torn or self._first:
            return False
        self._learn()
        return True

    def _learn(self) -> None:
        if self._choices is not None:
            usage = self._choices.usage
        else:
            usage = Usage.in_stream(self._last_but_one + self._last)
        self._lease.learn(usage)
        if usage is not None:
            self.usage = self._splice.whole(usage) if self._splice else usage

    def _while_it_reads(self, events: bytes) -> bytes:
        self.prompt_tokens = self.prompt_tokens or progress.total(events)
        kept, has_token = self._reading.sorted_out(events)
        if has_token:
            # Not before: several prompts share a GPU, so that one can stand still for as long as
            # the others take.
            self.reads_prompt = False
            self._exchange.be_silent_at_most(self._token_silence_s)
        if not self._hides_progress:
            return events
        # Nothing goes out before the first token: until then the request can move.
        self._prelude += kept
        if not has_token:
            return b""
        kept, self._prelude = self._prelude, b""
        return kept

    def _spliced(self, events: bytes, splice: Splice) -> bytes:
        try:
            return splice.rewrite(events)
        except SpliceError as error:
            message = f"the answer could not be continued: {error}"
            raise ApiError(502, message, code="backend_failed") from error

    def close(self) -> None:
        """End the exchange, finished or not; the backend's slot is free again."""
        self._held.close()
