"""One request on its way through the gateway, whose stream is kept: another rig can go on with it.

    kept = KeptRequest(request, client=client, budget=budget, ...)
    opened = kept.open()      # the answer of the rig that nginx has chosen, whatever it is
    ClientStream(opened, budget=budget, reopen=kept.open, ...)

Until the client's head is out nothing is decided here: what the rig says goes to nginx, which may
ask the next one. From then on the request is moved here, and a stream is resumed as on a rig
(`relay/`), with rigs in the place of llama-servers.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from heartcode.client import Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.gateway import metrics
from heartcode.gateway.rigs import RigBudget, RigLease
from heartcode.relay import sse
from heartcode.relay.backend_stream import BackendStream
from heartcode.relay.between_rigs import BEGUN_HEADER, SIGNS_HEADER, Beginning, Begun
from heartcode.relay.buffered import WholeAnswer
from heartcode.relay.client_stream import Opened
from heartcode.relay.continuation import Continuation
from heartcode.relay.resuming import resumed
from heartcode.relay.splice import Splice
from heartcode.relay.transcript import Transcript
from heartcode.routing.request_info import OVERFLOW_HEADER, RequestInfo
from heartcode.upstream.exchange import (
    BackendError,
    Exchange,
    KeepAlive,
    Reason,
    UpstreamRequest,
    sent,
)

# What a rig's last event says when another rig may do better, and what was wrong then.
_MAY_GO_ON = {
    "backend_failed": Reason.ERROR,
    "backend_unavailable": Reason.ERROR,
    "internal_error": Reason.ERROR,
    "restarting": Reason.STOPPED,
}
# Of an answer, what nginx and the client are told.
_TOLD_HEADERS = (
    *("Content-Type", "Allow", "Retry-After", "X-Should-Retry", "X-Request-Id", "Request-Id"),
    *("X-HeartCode-Error", "X-HeartCode-Model", "X-HeartCode-Cache-Key"),
)
# How many signs of life a rig gives in the time after which it counts as lost.
SIGNS = 3


class ToldError(ApiError):
    """An error that a rig has told as the last event of a stream, which goes on as it is."""

    def __init__(self, event: bytes) -> None:
        super().__init__(HTTPStatus.BAD_GATEWAY, "the rig failed", code="rig_failed")
        self.event = event


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long what may take, in seconds.

    Attributes:
        connect_s: until a rig accepts a connection.
        silence_s: until the head of its answer; a whole answer is silence until its end.
        signs_s: between two signs of life of a rig that streams.
    """

    connect_s: float
    silence_s: float
    signs_s: float

    @property
    def keep_alive(self) -> KeepAlive:
        """How the rigs' hosts are watched, before a head as well."""
        # Three questions without an answer, as a lossy network may swallow one; and no earlier than
        # the signs say it, where there are any.
        return KeepAlive(idle_s=1, lost_s=max(4, round(SIGNS * self.signs_s) + 1))


class TellingAnswer(WholeAnswer):
    """A rig's answer that is no stream, with those of its headers that are told."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        found = ((name, exchange.header(name)) for name in _TOLD_HEADERS)
        self.headers = [(name, value) for name, value in found if value is not None]


class KeptRequest:
    """One request, with what is known of its answer.

    Args:
        request: the client's, as it goes to a rig.
        client: who waits for the answer.
        budget: of rigs.
        timeouts: see there.
        transcript: what the client has got; None for what cannot be continued.

    Attributes:
        is_out: whether the client has a head, so that nginx can move the request no more.
    """

    def __init__(
        self,
        request: UpstreamRequest,
        *,
        client: Client,
        budget: RigBudget,
        timeouts: Timeouts,
        transcript: Transcript | None,
    ) -> None:
        self._request = request
        self._client = client
        self._budget = budget
        self._timeouts = timeouts
        self._transcript = transcript
        self._beginning: Beginning | None = None
        self._streams = False
        self._told = b""
        self.is_out = False

    def open(self) -> Opened:
        """Return what a rig answers; a stream that has begun is continued.

        Raises:
            ApiError: when none does.
            ClientGoneError: when the client left.
        """
        while True:
            continuation = self._continuation()
            lease = self._budget.next_lease()
            try:
                opened = self._open_at(lease, continuation)
            except BackendError as error:
                if self._client.gone:
                    raise ClientGoneError from None
                self._budget.has_failed(error)
                if not self.is_out:
                    raise self._budget.lost() from error
                continue
            if continuation is not None and self._budget.failure is not None:
                metrics.RESUMES.labels(reason=self._budget.failure.value).inc()
            self._budget.works()
            self._streams, self._told = isinstance(opened, BackendStream), b""
            return opened

    def _continuation(self) -> Continuation | None:
        """Return how to go on with what the client has got; None if that is nothing."""
        if self._transcript is None or not self._transcript.has_begun:
            return None
        continuation = self._transcript.continuation(self._request.body or b"")
        if continuation is None:
            raise ToldError(self._told) if self._told else self._budget.lost()
        return continuation

    def _open_at(self, lease: RigLease, continuation: Continuation | None) -> Opened:
        request, splice = self._request, None
        headers = {**request.headers, SIGNS_HEADER: f"{self._timeouts.signs_s:g}"}
        if lease.overflow is not None:
            headers[OVERFLOW_HEADER] = lease.overflow.value
        with ExitStack() as held:
            held.enter_context(lease)
            if continuation is not None:
                if (begun := self._begun(len(continuation.pieces))) is not None:
                    headers[BEGUN_HEADER] = begun.header()
                request, splice = self._resumed(lease, continuation, headers)
            request = replace(request, headers=headers)
            exchange = held.enter_context(self._sent(lease, request, self._timeouts.silence_s))
            opened: Opened
            if exchange.content_type.startswith(sse.CONTENT_TYPE):
                silence_s = self._timeouts.silence_s
                if exchange.header(SIGNS_HEADER) is not None:  # a version before gives none
                    silence_s = SIGNS * self._timeouts.signs_s
                    exchange.be_silent_at_most(silence_s)
                opened = BackendStream(
                    exchange,
                    lease,
                    token_silence_s=silence_s,
                    hides_progress=False,
                    splice=splice,
                    failure=self._failure if lease.overflow is None else _refusal,
                    on_comment=self._note_beginning,
                )
                opened.wait_for_first()
                opened.keep(held.pop_all())
            else:
                opened = TellingAnswer(exchange)
                if lease.overflow is not None:  # it was asked for more of a stream
                    raise BackendError(Reason.BUSY, opened.status)
            lease.has_answered(opened.status)
            return opened

    def _sent(self, lease: RigLease, request: UpstreamRequest, silence_s: float) -> Exchange:
        """Return the exchange in which `request` is answered; whoever gets it closes it."""
        rig = lease.backend
        exchange = Exchange(
            rig.host, rig.port, keep_alive=self._timeouts.keep_alive, takes_503=True
        )
        return sent(
            exchange,
            request,
            abort_when=(self._client.when_gone,),
            connect_timeout_s=self._timeouts.connect_s,
            silence_timeout_s=silence_s,
        )

    def _resumed(
        self, lease: RigLease, continuation: Continuation, headers: dict[str, str]
    ) -> tuple[UpstreamRequest, Splice]:
        # A proxy that was killed is back within seconds: twice the time of one that streams.
        silence_s = 2 * SIGNS * self._timeouts.signs_s
        request = replace(self._request, headers=headers)
        return resumed(
            continuation, request, lambda question: self._sent(lease, question, silence_s)
        )

    def _note_beginning(self, events: bytes) -> None:
        """Take what the first rig tells of the answer that it begins."""
        if self._beginning is None and (told := Beginning.among(events)) is not None:
            self._beginning = told
            if self._transcript is not None:
                self._transcript.opening = told.opening

    def _begun(self, so_far: int) -> Begun | None:
        """Return what the next rig has to know; None where the first one has not told it."""
        told = self._beginning
        if told is None or told.identity is None:
            return None
        fields: dict[str, Any] = json.loads(self._request.body or b"{}")
        return Begun.after(
            so_far,
            identity=told.identity,
            prompt_tokens=told.prompt_tokens,
            max_tokens=RequestInfo.of(fields, None).max_tokens,
        )

    def _failure(self, event: bytes) -> Exception:
        """Return what an error means with which a rig ends a stream: what it could not mend."""
        reason = _MAY_GO_ON.get(_code(event))
        if reason is None or (self._transcript is None and self._streams):
            return ToldError(event)
        self._told = event
        return BackendError(reason, _code(event))


def _refusal(event: bytes) -> Exception:
    """Return what it means that a rig does not go on: another one may."""
    code = _code(event)
    return BackendError(_MAY_GO_ON.get(code, Reason.BUSY), code)


def _code(event: bytes) -> str:
    for line in event.split(sse.EVENT_END)[0].split(b"\n"):
        told = sse.payload(line)
        error = told.get("error") if told is not None else None
        if isinstance(error, dict):
            code = error.get("code") or (error.get("details") or {}).get("error_code")
            return code if isinstance(code, str) else ""
    return ""
