"""Streamed answers: the events of one backend, and the client's one stream made of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from time import monotonic

from heartcode.client import Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.relay import sse
from heartcode.relay.fast_path import Outlet, while_readable
from heartcode.relay.future import Pending
from heartcode.relay.retry import Journey
from heartcode.relay.token_times import Pace
from heartcode.relay.transcript import Seam, SeamError, Transcript
from heartcode.routing.pool import Lease
from heartcode.telemetry import metrics
from heartcode.upstream import chunked, progress
from heartcode.upstream.exchange import BackendError, Exchange, Reason, failure
from heartcode.upstream.usage import Measured

# Guards the proxy's memory against a backend that has gone wrong.
MAX_HELD_BYTES = 64 * 1024 * 1024

_PIECE_BYTES = 8 * 1024
_EVENT_IN_CHUNK_END = b"\n\n" + chunked.END


class WholeAnswer:
    """An answer that is no stream; it was read to its end, and the backend is free again.

    Attributes:
        status, content_type, body: the answer.
        measured: what it tells of tokens and times.
        resumes, pace: as of a stream: none and nothing.
    """

    resumes = 0

    def __init__(self, exchange: Exchange) -> None:
        self.pace = Pace()
        self.status = exchange.status
        self.content_type = exchange.content_type
        body = bytearray()
        while data := exchange.read_some():
            body += data
            if len(body) > MAX_HELD_BYTES:
                raise BackendError(Reason.BROKEN, "an answer without end")
        self.body = bytes(body)
        self.measured = Measured.in_body(self.body)

    @property
    def is_json(self) -> bool:
        """Whether clients of this API can read it."""
        return self.content_type.startswith("application/json")

    def as_error(self) -> ApiError:
        """Return what it says as an error, for a client that can get no status any more."""
        try:
            error = json.loads(self.body)["error"]
            return ApiError(self.status, str(error["message"]), code=str(error["type"]))
        except (ValueError, LookupError, TypeError):
            message = f"the backend answered {self.status}"
            return ApiError(502, message, code="backend_failed")

    def close(self) -> None:
        """Do nothing: nothing is held."""


def _forget(_: bytes) -> None:
    """Take what nobody will ask for."""


class BackendEvents:
    """The events that one backend sends, as far as the client is to get them.

    From the first token on the backend may pause for `token_silence_s` at most.

    Attributes:
        status: the answer's HTTP status.
        reads_prompt: whether no token has come yet.
        last_heard: when the backend sent something last (`time.monotonic()`).
        measured: what the backend told at the end, for the whole answer; None if nothing.
    """

    def __init__(
        self,
        exchange: Exchange,
        lease: Lease,
        *,
        token_silence_s: float,
        hides_progress: bool,
        seam: Seam | None = None,
    ) -> None:
        self.status = exchange.status
        self._exchange = exchange
        self._lease = lease
        self._token_silence_s = token_silence_s
        self._hides_progress = hides_progress
        self.reads_prompt = True
        self.last_heard = 0.0
        self.measured: Measured | None = None
        self._seam = seam
        self._events = sse.WholeEvents()
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

    def keep(self, held: ExitStack) -> None:
        """Hold what the events need, the backend's lease and the connection, until `close()`."""
        self._held = held

    def read(self) -> bytes:
        """Return the next complete events; b"" at the proper end of the stream."""
        if self._first:
            first, self._first = self._first, b""
            return first
        while data := self._exchange.read_some():
            if events := self._passable(data):
                return events
        self._end()
        return b""

    def pour(
        self, outlet: Outlet, keep_time: Callable[[float], None], keep: Callable[[bytes], None]
    ) -> bool:
        """Let `outlet` have the events as they arrive, until it can take no more or they end.

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
                while_readable(exchange, self._step(outlet, keep_time, keep))
            except OSError as error:
                raise failure(error) from error
        if not exchange.is_complete:
            return True
        self._end()
        return False

    def _step(
        self, outlet: Outlet, keep_time: Callable[[float], None], keep: Callable[[bytes], None]
    ) -> Callable[[], bool]:
        """Return what `pour()` does whenever there is something to read."""
        # What is needed for every token, at hand.
        exchange, backend, parts = self._exchange, self._lease.backend, self._events
        source, write_as_it_is = exchange.fileno(), outlet.write_as_it_is
        heads, end = chunked.HEADS, -len(chunked.END)
        is_straight = outlet.is_chunked and self._seam is None

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
            events = self._passable(exchange.take_in(piece))
            if events:
                keep_time(exchange.last_heard)
                keep(events)
            return (not events or outlet.write_now(events)) and not exchange.is_complete

        return step

    def _passable(self, data: bytes) -> bytes:
        """Take what has arrived; return the complete events that the client is to get."""
        self.last_heard = self._lease.backend.last_heard = self._exchange.last_heard
        events = self._events.feed(data)
        if not events:
            if len(self._events.torn) > MAX_HELD_BYTES:
                raise BackendError(Reason.BROKEN, "an event without end")
            return events
        self._last_but_one, self._last = self._last, events
        if self.reads_prompt:
            events = self._while_it_reads(events)
        if events and self._seam is not None:
            events = self._sewn_on(events, self._seam)
        return events

    def _end(self) -> None:
        if self._events.torn:
            raise BackendError(Reason.BROKEN, "the last event is cut short")
        measured = Measured.in_stream(self._last_but_one + self._last)
        self._lease.learn(measured)
        if measured is not None:
            self.measured = self._seam.whole(measured) if self._seam else measured

    def _while_it_reads(self, events: bytes) -> bytes:
        tokens = progress.without(events)
        if tokens:
            # Not before: several prompts share a GPU, so that one can stand still for as long as
            # the others take.
            self.reads_prompt = False
            self._exchange.be_silent_at_most(self._token_silence_s)
        return tokens if self._hides_progress else events

    def _sewn_on(self, events: bytes, seam: Seam) -> bytes:
        try:
            return seam.rewrite(events)
        except SeamError as error:
            message = f"the answer could not be continued: {error}"
            raise ApiError(502, message, code="backend_failed") from error

    def close(self) -> None:
        """End the exchange, finished or not; the backend's slot is free again."""
        self._held.close()


Opened = BackendEvents | WholeAnswer


class EventStream:
    """The one stream that the client gets; iterating yields bytes that end where an event ends.

    It never ends without a word. While there is nothing to pass on, before the first token or
    because another backend has to read the prompt to go on, it gives signs of life. When a backend
    fails, another one goes on where that is possible; where it is not, the last event is an error.

    Attributes:
        outcome: how the stream ended: completed, failed, or disconnected (the client left).
        resumes: how often another backend went on.
        outlet: the short way to the client; None: every piece is yielded.
        pace: when the tokens came.
    """

    def __init__(
        self,
        opened: Pending[Opened] | BackendEvents,
        *,
        journey: Journey,
        client: Client,
        ping_interval_s: float,
        transcript: Transcript | None = None,
        reopen: Callable[[], Opened] | None = None,
    ) -> None:
        self.outcome = "disconnected"
        self.resumes = 0
        self.outlet: Outlet | None = None
        self.pace = Pace()
        self._measured: Measured | None = None
        self._source: Pending[Opened] | Opened = opened
        self._journey = journey
        self._client = client
        self._ping_interval_s = ping_interval_s
        self._transcript = transcript
        self._reopen = reopen

    @property
    def measured(self) -> Measured | None:
        """What is known of the whole answer's tokens; of a broken one's, how many went out."""
        if self._measured is None and self._transcript is not None:
            return Measured(evaluated=0, cached=0, generated=self._transcript.tokens)
        return self._measured

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.pieces()
            self.outcome = "completed"
        except ClientGoneError:
            return
        except ApiError as error:
            self.outcome = "failed"
            yield sse.data_event(error.body())

    def pieces(self) -> Iterator[bytes]:
        """Yield what iterating yields, but raise the ApiError or ClientGoneError that ends it."""
        events = yield from self._opened()
        while True:
            try:
                yield from self._passed_on(events)
            except BackendError as error:
                if self._client.gone:
                    raise ClientGoneError from None
                events.close()
                reason = self._journey.has_failed(error)
            else:
                return
            ending = self._transcript.ending if self._transcript is not None else None
            if ending is not None:
                yield ending
                return
            if self._reopen is None:
                raise self._journey.lost()
            self._source = Pending(self._reopen)
            events = yield from self._opened()
            self.resumes += 1
            metrics.RESUMES.labels(reason=reason.value).inc()

    def _opened(self) -> Generator[bytes, None, BackendEvents]:
        """Yield signs of life until a backend sends events; return them."""
        while isinstance(self._source, Pending):
            while not self._source.is_there(within_s=self._ping_interval_s):
                yield sse.PING
            self._source = self._source.take()
        if isinstance(self._source, WholeAnswer):
            # A sign of life, or a part of the answer, has gone out: too late for a status.
            raise self._source.as_error()
        return self._source

    def _passed_on(self, events: BackendEvents) -> Iterator[bytes]:
        while piece := events.read():
            self._note(piece, events)
            yield piece
            # The server has written the head by now, and what may come late has another limit than
            # what follows the first token.
            if self.outlet is not None and not events.reads_prompt:
                self._pour(events, self.outlet)
                break
        self._measured = events.measured
        if self._transcript is not None and self._transcript.is_cut:
            raise BackendError(Reason.BROKEN, "a stream without its last event")

    def _pour(self, events: BackendEvents, outlet: Outlet) -> None:
        keep = self._transcript.note if self._transcript is not None else _forget
        goes_on = True
        while goes_on:
            goes_on = events.pour(outlet, self.pace.note, keep)
            outlet.flush(self._client)

    def _note(self, piece: bytes, events: BackendEvents) -> None:
        if not events.reads_prompt:
            self.pace.note(events.last_heard)
        if self._transcript is not None:
            self._transcript.note(piece)

    def close(self) -> None:
        """End the stream, finished or not; the backend's slot is free again."""
        self._source.close()
