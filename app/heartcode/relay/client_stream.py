"""The one stream that the client gets, from however many backends; it never ends without a word."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from heartcode.client import Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.relay import sse
from heartcode.relay.backend_stream import BackendStream
from heartcode.relay.buffered import WholeAnswer
from heartcode.relay.fast_path import ClientWriter, Signs
from heartcode.relay.future import Future
from heartcode.relay.token_times import TokenTimes
from heartcode.relay.transcript import Transcript
from heartcode.telemetry import metrics
from heartcode.upstream.exchange import BackendError, Reason
from heartcode.upstream.usage import Usage

Opened = BackendStream | WholeAnswer

# Makes an error the last event of a stream.
ErrorEvent = Callable[[ApiError], bytes]

_log = logging.getLogger(__name__)


def openai_error_event(error: ApiError) -> bytes:
    """Return the event in which OpenAI's clients, and llama-server's own, look for an error."""
    return sse.data_event(error.body())


class Budget(Protocol):
    """What tells a stream whether another backend may go on, see `RetryBudget`."""

    def has_failed(self, error: BackendError) -> Reason:
        """Note that the last backend failed; return what was wrong with it."""

    def lost(self) -> ApiError:
        """Return the error for a request that no backend could serve."""


class ClientStream:
    """The one stream that the client gets; iterating yields bytes that end where an event ends.

    While there is nothing to pass on, before the first token or because another backend has to read
    the prompt to go on, it gives signs of life. When a backend fails, another one goes on where
    that is possible; where it is not, and when the client is given up, the last event is an error.

    Args:
        opened: the backend's stream, or what will be it.
        budget: of further backends.
        client: who waits for it.
        ping_interval_s: between two signs of life while no backend sends events.
        error_event: makes the last event of a stream that fails.
        transcript: what the client has got; None for what cannot be continued.
        reopen: has another backend go on.
        preface: comment that comes with the first token.
        signs_s: how long there may be no sign of life amid the tokens; None: for ever.

    Attributes:
        outcome: how the stream ended: completed, failed, or disconnected (the client left, or was
            given up).
        resumes: how often another backend went on.
        writer: the fast path to the client; None: every piece is yielded.
        token_times: when the tokens came.
    """

    def __init__(
        self,
        opened: Future[Opened] | BackendStream,
        *,
        budget: Budget,
        client: Client,
        ping_interval_s: float,
        error_event: ErrorEvent = openai_error_event,
        transcript: Transcript | None = None,
        reopen: Callable[[], Opened] | None = None,
        preface: Callable[[BackendStream], bytes] | None = None,
        signs_s: float | None = None,
    ) -> None:
        self.outcome = "disconnected"
        self.resumes = 0
        self.writer: ClientWriter | None = None
        self.token_times = TokenTimes()
        self._usage: Usage | None = None
        self._source: Future[Opened] | Opened = opened
        self._budget = budget
        self._client = client
        self._ping_interval_s = ping_interval_s
        self._error_event = error_event
        self._transcript = transcript
        self._reopen = reopen
        self._preface = preface
        self._signs_s = signs_s

    @property
    def usage(self) -> Usage | None:
        """What is known of the whole answer's tokens; of a broken one's, how many went out."""
        if self._usage is None and self._transcript is not None:
            return Usage(evaluated=0, cached=0, generated=self._transcript.events)
        return self._usage

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self.pieces()
            self.outcome = "completed"
        except ClientGoneError:
            # A client that was given up is still there: it is told why.
            if self._client.error is not None:
                yield self._error_event(self._client.error)
        except ApiError as error:
            self.outcome = "failed"
            yield self._error_event(error)
        except Exception:  # noqa: BLE001 - a fault of this program; a stream is never just cut
            _log.exception("a stream ended with an exception")
            self.outcome = "failed"
            yield self._error_event(ApiError(500, "the proxy failed", code="internal_error"))

    def pieces(self) -> Iterator[bytes]:
        """Yield what iterating yields, but raise the ApiError or ClientGoneError that ends it."""
        events = yield from self._opened()
        while True:
            try:
                yield from self._passed_on(events)
            except BackendError as error:
                # Behind the last event nothing is lost, whoever has hung up.
                is_whole = self._is_whole(events)
                if self._client.gone:
                    if is_whole:
                        return
                    raise ClientGoneError from None
                events.close()
                reason = self._budget.has_failed(error)
                if is_whole:
                    return
            else:
                return
            ending = self._transcript.ending if self._transcript is not None else None
            if ending is not None:
                yield ending
                return
            if self._reopen is None:
                raise self._budget.lost()
            self._source = Future(self._reopen)
            events = yield from self._opened()
            self.resumes += 1
            metrics.RESUMES.labels(reason=reason.value).inc()

    def _opened(self) -> Generator[bytes, None, BackendStream]:
        """Yield signs of life until a backend sends events; return them."""
        while isinstance(self._source, Future):
            while not self._source.is_there(within_s=self._ping_interval_s):
                yield sse.PING
            self._source = self._source.take()
        if isinstance(self._source, WholeAnswer):
            # A sign of life, or a part of the answer, has gone out: too late for a status.
            raise self._source.as_error()
        return self._source

    def _passed_on(self, events: BackendStream) -> Iterator[bytes]:
        while piece := events.read():
            self._note(piece, events)
            if self._preface is not None and not events.reads_prompt:
                piece, self._preface = self._preface(events) + piece, None
            yield piece
            # The server has written the head by now, and what may come late has another limit than
            # what follows the first token.
            if self.writer is not None and not events.reads_prompt:
                self._pour(events, self.writer)
                break
        self._usage = events.usage
        if self._transcript is not None and self._transcript.is_cut:
            raise BackendError(Reason.BROKEN, "a stream without its last event")

    def _is_whole(self, events: BackendStream) -> bool:
        if self._transcript is not None and self._transcript.is_cut:
            return False
        is_whole = events.conclude()
        self._usage = events.usage
        return is_whole

    def _pour(self, events: BackendStream, writer: ClientWriter) -> None:
        keep = self._transcript.note if self._transcript is not None else _forget
        signs = None
        if self._signs_s is not None:
            signs = Signs(every_s=self._signs_s, give=lambda: writer.write_now(sse.PING))
        goes_on = True
        while goes_on:
            goes_on = events.pour(writer, self.token_times.note, keep, signs=signs)
            writer.flush(self._client)

    def _note(self, piece: bytes, events: BackendStream) -> None:
        if not events.reads_prompt:
            self.token_times.note(events.last_heard)
        if self._transcript is not None:
            # Of the first backend: what goes on has an end that was generated before it.
            self._transcript.opening = self._transcript.opening or events.opening
            self._transcript.note(piece)

    def close(self) -> None:
        """End the stream, finished or not; the backend's slot is free again."""
        self._source.close()


def _forget(_: bytes) -> None:
    """Take what nobody will ask for."""
