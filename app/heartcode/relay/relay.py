"""Brings a request to a backend that can serve it and the answer back as it arrives.

    answer = relay.ask(request)  # or relay.stream(request, transcript)
    for piece in answer.body:
        ...

Inference has no side effects, so until the first byte of an answer is passed on, a request that
failed on one backend moves to the next. What happens later is the subject of `client_stream`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from heartcode.client import Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.fields import Fields
from heartcode.relay import buffered, sse
from heartcode.relay.backend_stream import BackendStream
from heartcode.relay.between_rigs import Beginning, Begun
from heartcode.relay.buffered import WholeAnswer
from heartcode.relay.client_stream import ClientStream, ErrorEvent, Opened, openai_error_event
from heartcode.relay.continuation import Continuation
from heartcode.relay.faulty_request import blamed
from heartcode.relay.future import Future
from heartcode.relay.resuming import resumed
from heartcode.relay.retry import RetryBudget
from heartcode.relay.splice import Splice
from heartcode.relay.too_long import prompt_tokens, with_context
from heartcode.relay.transcript import Transcript
from heartcode.routing.backend import Backend
from heartcode.routing.lease import Lease, SlotLease
from heartcode.routing.pool import NO_BACKEND, Pool
from heartcode.routing.request_info import RequestInfo
from heartcode.routing.room import TOO_LONG, able, is_too_small
from heartcode.telemetry import metrics
from heartcode.upstream import progress
from heartcode.upstream.exchange import BackendError, Exchange, Reason, UpstreamRequest, sent
from heartcode.upstream.identity import Identity, identify
from heartcode.warm.conversation_cache import ConversationCache

_OK = 200
# More than the events that follow the last token.
_LAST_PIECES = 4
# 501 is an answer ("not supported"); 503 never gets here.
_FAILURES = (500, 502, 504)
# With these a backend has not been given the request, or has refused it as too long.
_NOT_TRIED = (Reason.OTHER_MODEL, Reason.CONTEXT)


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long what may take.

    Attributes:
        connect_s: until a backend accepts a connection.
        silence_s: until the first token of a stream, or to the end of an answer that is none.
        token_silence_s: between two events of a stream from then on.
        ping_interval_s: between two signs of life to the client of a stream.
        identity_s: until a backend of which nothing is known has said what it serves.
    """

    connect_s: float
    silence_s: float
    token_silence_s: float
    ping_interval_s: float
    identity_s: float


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Attributes:
        upstream_request: the request as it goes to a backend.
        client: who waits for the answer.
        serving: the backends that can be asked; None: all of them.
        info: with it the request takes a slot and may wait for it, see `Pool.take`.
        error_event: makes the last event of a stream that fails.
        signs_s: how often a gateway wants a sign of life, see `between_rigs`; None: none does.
        goes_on: whether it goes on with a stream of another rig.
    """

    upstream_request: UpstreamRequest
    client: Client
    serving: Container[Backend] | None = None
    info: RequestInfo | None = None
    error_event: ErrorEvent = openai_error_event
    signs_s: float | None = None
    goes_on: bool = False


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer: whole, or a stream that has begun or is still waited for.

    `source` is what it was made of, which knows its tokens and times: the body itself or, where a
    stream was collected, that stream.
    """

    status: int
    content_type: str
    budget: RetryBudget
    body: bytes | ClientStream
    source: ClientStream | WholeAnswer

    @property
    def backend(self) -> str | None:
        """The name of the backend that the answer came from, the last one if several did."""
        return self.budget.backend.name if self.budget.backend else None

    @property
    def retries(self) -> int:
        """How often the request was moved to another backend before anything had gone out."""
        return self.budget.moves - self.source.resumes


class Relay:
    """The way to the backends of a pool."""

    def __init__(
        self,
        pool: Pool,
        *,
        timeouts: Timeouts,
        max_moves: int,
        warm: ConversationCache | None = None,
    ) -> None:
        self._pool = pool
        self._warm = warm
        self._timeouts = timeouts
        self._max_moves = max_moves

    def ask(self, asked: Request) -> Answer:
        """Return the answer of the first backend that gives one; each is tried at most once.

        Raises:
            ApiError: when there is none, see `RetryBudget`.
            ClientGoneError: when the client left.
        """
        relayed = self._relayed(asked)
        return relayed.answer(relayed.open())

    def stream(self, asked: Request, transcript: Transcript | None) -> Answer:
        """Return the answer to a request for a stream, which `transcript` allows to continue.

        When no event and no error is there within the ping interval, the answer begins with signs
        of life. The request can still move from backend to backend, but its status is 200 from
        then on, and an error becomes an event.

        Raises:
            ApiError, ClientGoneError: as in `ask()`.
        """
        relayed = self._relayed(asked, transcript)
        opening = Future(relayed.open)
        try:
            # Another rig's client has got its head, and an error becomes an event in any case.
            waits_s = self._timeouts.ping_interval_s
            if asked.goes_on and asked.signs_s is not None:
                waits_s = asked.signs_s
            is_there = opening.is_there(within_s=waits_s)
            return relayed.answer(opening.take() if is_there else opening)
        except BaseException:
            opening.close()
            raise

    def collect(self, asked: Request, transcript: Transcript, fields: Fields) -> Answer:
        """Return a whole answer, like `ask()`, of what is asked for as a stream.

        So a lost backend's work is continued, not repeated, and a client that leaves frees its slot
        at the next token, see `buffered`. `fields` are those of the request's body.
        """
        request = asked.upstream_request
        whole = buffered.as_stream(request.path, fields)
        streamed = replace(asked, upstream_request=replace(request, body=whole))
        relayed = self._relayed(streamed, transcript)
        answer = relayed.answer(relayed.open())
        if isinstance(answer.body, bytes):
            return answer
        last: deque[bytes] = deque(maxlen=_LAST_PIECES)
        with closing(answer.body) as stream:
            for piece in stream.pieces():
                if not transcript.is_known:
                    break
                last.append(piece)
        body = buffered.answer(transcript.text, b"".join(last)) if transcript.is_known else None
        if body is None:
            # More than text, or an error. Nobody has seen any of it: ask for what was asked for.
            return self.ask(asked)
        return replace(answer, content_type=buffered.CONTENT_TYPE, body=body)

    def _relayed(self, asked: Request, transcript: Transcript | None = None) -> _RelayedRequest:
        def take(tried: Container[Backend]) -> Lease | None:
            return self._pool.take(
                except_for=tried, serving=asked.serving, info=asked.info, client=asked.client
            )

        budget = RetryBudget(take, max_moves=self._max_moves)
        return _RelayedRequest(
            asked,
            budget,
            self._timeouts,
            transcript,
            largest_context=lambda: self._pool.largest_context(asked.serving),
            warm=self._warm,
        )


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What an answer has begun with: what the backend served, and its stream."""

    identity: Identity
    stream: BackendStream


class _Refused:
    """The answer of a backend after which another one is asked, in case that none has a better one.

    Attributes:
        answer: what it said.
        by_all: whether every backend that was asked since has said no more.
    """

    def __init__(self, answer: WholeAnswer, *, largest_context: Callable[[], int]) -> None:
        self.answer = answer
        self.by_all = True
        self._is_too_long = prompt_tokens(answer) > 0
        self._largest_context = largest_context

    @property
    def reason(self) -> Reason:
        return Reason.CONTEXT if self._is_too_long else Reason.ERROR

    def instead_of(self, error: ApiError) -> WholeAnswer | None:
        """Return what the client is told instead of `error`, with which the search has ended."""
        if not self._is_too_long:
            return self.answer if self.answer.is_json else None
        # Where a larger one is busy or has failed, it is not the prompt's fault.
        if self.by_all and error.code in (NO_BACKEND, TOO_LONG):
            return with_context(self.answer, self._largest_context())
        return None


class _RelayedRequest:
    """One request that is relayed, with what it needs for that."""

    def __init__(
        self,
        asked: Request,
        budget: RetryBudget,
        timeouts: Timeouts,
        transcript: Transcript | None,
        *,
        largest_context: Callable[[], int],
        warm: ConversationCache | None,
    ) -> None:
        self._warm = warm
        self._request = asked.upstream_request
        self._info = asked.info
        self._client = asked.client
        self._error_event = asked.error_event
        self._signs_s = asked.signs_s
        self._largest_context = largest_context
        self._begun: _Begun | None = None
        self._budget = budget
        self._timeouts = timeouts
        self._transcript = transcript

    def answer(self, opened: Future[Opened] | Opened) -> Answer:
        if isinstance(opened, WholeAnswer):
            return Answer(
                status=opened.status,
                content_type=opened.content_type,
                budget=self._budget,
                body=opened.body,
                source=opened,
            )
        stream = ClientStream(
            opened,
            budget=self._budget,
            client=self._client,
            ping_interval_s=self._signs_s or self._timeouts.ping_interval_s,
            error_event=self._error_event,
            transcript=self._transcript,
            reopen=self.open if self._transcript is not None else None,
            preface=self._preface if self._signs_s and self._transcript is not None else None,
            signs_s=self._signs_s,
        )
        return Answer(
            status=opened.status if isinstance(opened, BackendStream) else _OK,
            content_type=sse.CONTENT_TYPE,
            budget=self._budget,
            body=stream,
            source=stream,
        )

    def _preface(self, events: BackendStream) -> bytes:
        """Return what the gateway has to know to go on with the answer on another rig."""
        begun = self._begun
        return Beginning(
            identity=begun.identity if begun is not None else None,
            opening=events.opening,
            prompt_tokens=events.prompt_tokens,
        ).comment()

    def open(self) -> Opened:
        """Return what the first backend answers that can; a stream that has begun is continued."""
        reason: Reason | None = None
        refused: _Refused | None = None
        while True:
            continuation = self._continuation()
            try:
                lease = self._budget.next_lease()
            except ApiError as error:
                answer = refused.instead_of(error) if refused is not None else None
                if answer is None:
                    raise
                return answer
            if reason is not None:
                metrics.RETRIES.labels(reason=reason.value).inc()
            try:
                opened = self._open_at(lease, continuation)
            except BackendError as error:
                if self._client.gone:
                    raise ClientGoneError from None
                reason = self._budget.has_failed(error)
                if refused is not None:
                    refused.by_all &= reason in _NOT_TRIED
                continue
            if not isinstance(opened, WholeAnswer) or self._is_the_answer(opened, refused):
                return opened
            refused = _Refused(opened, largest_context=self._largest_context)
            reason = self._budget.has_failed(BackendError(refused.reason, opened.status))

    def _is_the_answer(self, answer: WholeAnswer, refused: _Refused | None) -> bool:
        """Return whether no other backend needs to be asked, after one that has `refused`."""
        if self._info is not None and (tokens := prompt_tokens(answer)):
            self._info.tokens = max(self._info.tokens, tokens)
            return False
        if answer.status not in _FAILURES:
            return True
        if refused is None or refused.reason is not Reason.ERROR or not answer.is_json:
            return False
        # Two say so: it is the request.
        answer.is_agreed_on = answer.says_the_same_as(refused.answer)
        return True

    def _continuation(self) -> Continuation | None:
        """Return how to go on with what the client has got; None if that is nothing."""
        if self._transcript is None or not self._transcript.has_begun:
            return None
        continuation = self._transcript.continuation(self._request.body or b"")
        if continuation is None:
            raise self._budget.lost()
        if self._info is not None and self._begun is not None:
            begun = Begun.after(
                len(continuation.pieces),
                identity=self._begun.identity,
                prompt_tokens=self._begun.stream.prompt_tokens,
                max_tokens=self._info.max_tokens,
            )
            begun.note_in(self._info)
        return continuation

    def _introduced(self, lease: Lease) -> Identity | None:
        """Return what the backend serves, which is what is asked for.

        Raises:
            BackendError: when it serves something else, or does not say what.
        """
        backend = lease.backend
        served = backend.served
        if served.is_unknown:
            if served.is_started_anew and isinstance(lease, SlotLease):
                lease.place.begins_anew()
            process = served.process()
            try:
                identity = identify(backend.host, backend.port, timeout_s=self._timeouts.identity_s)
            except BackendError as error:
                if error.reason is Reason.BROKEN:  # not of this request, which it has not seen
                    raise BackendError(Reason.UNREACHABLE, error) from error
                raise
            served.note(identity, process)
        if not able([backend], self._info):
            is_small = self._info is not None and is_too_small(backend, self._info)
            raise BackendError(Reason.CONTEXT if is_small else Reason.OTHER_MODEL)
        return served.identity

    def _open_at(self, lease: Lease, continuation: Continuation | None) -> Opened:
        request, splice = self._request, None
        with ExitStack() as held:
            held.enter_context(lease)
            identity = self._introduced(lease)
            if continuation is not None:
                request, splice = self._resumed(lease, continuation)
            if self._warm is not None and isinstance(lease, SlotLease):
                request = self._warm.prepared(lease, request)
            exchange = held.enter_context(self._sent(lease, request, self._timeouts.silence_s))
            if lease.backend.served.is_started_anew:  # who answers is not who was asked
                raise BackendError(Reason.LOADING)
            opened: Opened
            if exchange.content_type.startswith(sse.CONTENT_TYPE):
                opened = BackendStream(
                    exchange,
                    lease,
                    token_silence_s=self._timeouts.token_silence_s,
                    hides_progress=request.hides_progress,
                    has_choices=request.has_choices,
                    splice=splice,
                )
                opened.wait_for_first()
                opened.keep(held.pop_all())
                if self._begun is None and identity is not None:
                    self._begun = _Begun(identity=identity, stream=opened)
            else:
                # Whole before the first byte goes out: until then another backend can take over.
                opened = blamed(WholeAnswer(exchange))
                lease.learn(opened.usage)
            lease.has_answered(opened.status)
            return opened

    def _sent(self, lease: Lease, request: UpstreamRequest, silence_s: float) -> Exchange:
        """Return the exchange in which `request` is answered; whoever gets it closes it."""
        exchange = Exchange(lease.backend.host, lease.backend.port)
        return sent(
            exchange,
            request,
            abort_when=(self._client.when_gone, lease.when_given_up),
            connect_timeout_s=self._timeouts.connect_s,
            silence_timeout_s=silence_s,
        )

    def _resumed(self, lease: Lease, continuation: Continuation) -> tuple[UpstreamRequest, Splice]:
        """Return the request with which the backend goes on."""
        request, splice = resumed(
            continuation,
            self._request,
            lambda question: self._sent(lease, question, self._timeouts.token_silence_s),
        )
        # A client that leaves is noticed while the prompt is read; nobody waits to see it.
        body = progress.asked_for(request.body or b"")
        return replace(request, body=body, hides_progress=True), splice
