"""Brings a request to a backend that can serve it and the answer back as it arrives.

    answer = relay.ask(call, client)
    for piece in answer.body:
        ...

Inference has no side effects, so until the first byte of an answer is passed on, a request that
failed on one backend moves to the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

from heartcode import metrics, sse
from heartcode.admission import Ticket
from heartcode.client import Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.measured import Measured
from heartcode.pool import Backend, Lease, Pool
from heartcode.upstream import BackendError, Call, Exchange, Reason

# Guards the proxy's memory against a backend that has gone wrong.
_MAX_HELD_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A backend's answer: whole, or a stream of which the first event has arrived."""

    status: int
    content_type: str
    backend: str
    body: bytes | EventStream


class EventStream:
    """The events of a streamed answer; iterating yields bytes that end where an event ends.

    It never ends without a word: when the backend fails, the last event is an error.
    """

    def __init__(self, exchange: Exchange, lease: Lease, client: Client) -> None:
        self._failed = False
        self._finished = False
        self._exchange = exchange
        self._lease = lease
        self._client = client
        self._held = ExitStack()
        self._events = sse.WholeEvents()
        self._first: bytes | None = None
        self._last = self._last_but_one = b""

    def wait_for_first_event(self) -> None:
        """Return when there is something to pass on; raise BackendError when that fails."""
        self._first = self._next_events()
        if not self._first:
            raise BackendError(Reason.BROKEN, "a stream without events")

    @property
    def outcome(self) -> str:
        """How the stream ended: completed, failed, or disconnected (the client left)."""
        if self._failed:
            return "failed"
        return "completed" if self._finished else "disconnected"

    def keep(self, held: ExitStack) -> None:
        """Hold what the stream needs, the backend's lease and the connection, until `close()`."""
        self._held = held

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._finished:
            raise StopIteration
        if self._first is not None:
            first, self._first = self._first, None
            return first
        try:
            piece = self._next_events()
        except BackendError as error:
            return self._end_with(error)
        if not piece:
            self._finished = True
            # [DONE] may have come by itself.
            self._lease.learn(Measured.in_stream(self._last_but_one + self._last))
            raise StopIteration
        return piece

    def _next_events(self) -> bytes:
        """Return the next complete events; b"" at the proper end of the stream."""
        while data := self._exchange.read_some():
            if events := self._events.feed(data):
                self._last_but_one, self._last = self._last, events
                return events
            if self._events.pending > _MAX_HELD_BYTES:
                raise BackendError(Reason.BROKEN, "an event without end")
        if self._events.pending:
            raise BackendError(Reason.BROKEN, "the last event is cut short")
        return b""

    def _end_with(self, error: BackendError) -> bytes:
        if self._client.gone:
            raise StopIteration
        self._failed = self._finished = True
        self._lease.backend.has_failed()
        lost = ApiError(502, f"the backend failed ({error.reason.value})", code="backend_failed")
        return sse.data_event(lost.body())

    def close(self) -> None:
        """End the stream, finished or not; the backend's slot is free again."""
        self._held.close()


class Relay:
    """The way to the backends of a pool."""

    def __init__(self, pool: Pool, *, connect_timeout_s: float, silence_timeout_s: float) -> None:
        self._pool = pool
        self._connect_timeout_s = connect_timeout_s
        self._silence_timeout_s = silence_timeout_s

    def ask(
        self,
        call: Call,
        client: Client,
        *,
        ticket: Ticket | None = None,
        silence_timeout_s: float | None = None,
    ) -> Answer:
        """Return the answer of the first backend that gives one; each is tried at most once.

        With a ticket the call takes a slot and may wait for it, see `Pool.take`.

        Raises:
            ApiError: 503 when no backend is there, 502 when those that are failed, 429 or 504 when
                there is no slot for it.
            ClientGoneError: when the client left.
        """
        tried: list[Backend] = []
        reason: Reason | None = None
        while lease := self._pool.take(except_for=tried, ticket=ticket, client=client):
            if reason is not None:
                metrics.RETRIES.labels(reason=reason.value).inc()
            tried.append(lease.backend)
            try:
                return self._ask_one(lease, call, client, silence_timeout_s)
            except BackendError as error:
                if client.gone:
                    raise ClientGoneError from None
                lease.backend.has_failed()
                reason = error.reason
        if reason in (Reason.BROKEN, Reason.SILENT):
            raise ApiError(502, f"the backend failed ({reason.value})", code="backend_failed")
        raise ApiError(503, "no backend is ready", code="backend_unavailable")

    def _ask_one(
        self, lease: Lease, call: Call, client: Client, silence_timeout_s: float | None
    ) -> Answer:
        backend = lease.backend
        with ExitStack() as held:
            held.enter_context(lease)
            exchange = held.enter_context(Exchange(backend.host, backend.port))
            client.when_gone(exchange.abort)
            exchange.send(
                call,
                connect_timeout_s=self._connect_timeout_s,
                silence_timeout_s=silence_timeout_s or self._silence_timeout_s,
            )
            body: bytes | EventStream
            if exchange.content_type.startswith(sse.CONTENT_TYPE):
                body = EventStream(exchange, lease, client)
                body.wait_for_first_event()
                body.keep(held.pop_all())
            else:
                # Whole before the first byte goes out: until then another backend can take over.
                body = _read_all(exchange)
                lease.learn(Measured.in_body(body))
            backend.has_answered()
            return Answer(
                status=exchange.status,
                content_type=exchange.content_type,
                backend=backend.name,
                body=body,
            )


def _read_all(exchange: Exchange) -> bytes:
    body = bytearray()
    while data := exchange.read_some():
        body += data
        if len(body) > _MAX_HELD_BYTES:
            raise BackendError(Reason.BROKEN, "an answer without end")
    return bytes(body)
