"""What is known of a request when it is over: one log line, and the metrics.

The line is JSON and holds no word of a prompt or an answer.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import dataclass, field
from http import HTTPStatus

from flask import Flask, Response, g, request

from heartcode import journal, metrics, request_id
from heartcode.admission import Ticket
from heartcode.client import Client, ClientGoneError
from heartcode.relay import Answer
from heartcode.stream import EventStream
from heartcode.surface import INFERENCE_PATHS

_log = logging.getLogger("heartcode.request")

CLIENT_GONE_STATUS = 499  # nginx's number for it; nobody is left to read it


@dataclass(kw_only=True)
class Record:
    """One request, from its arrival to its last byte."""

    id: str
    endpoint: str
    method: str
    is_inference: bool
    stream: bool = False
    ticket: Ticket | None = None
    answer: Answer | None = None
    client: Client | None = None
    started: float = field(default_factory=time.monotonic)

    def outcome(self, status: int) -> str:
        """Say how it ended: completed, disconnected, rejected (4xx) or failed."""
        if status == CLIENT_GONE_STATUS:
            return "disconnected"
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return "failed"
        if status >= HTTPStatus.BAD_REQUEST:
            return "rejected"
        if self.answer is not None and isinstance(self.answer.body, EventStream):
            given_up = self.client is not None and self.client.error is not None
            outcome = self.answer.body.outcome
            return "failed" if given_up and outcome == "disconnected" else outcome
        return "completed"


def current_record() -> Record:
    """Return the record of the request that is being served."""
    record: Record = g.record
    return record


def init_app(app: Flask) -> None:
    """Let `app` give every request an id and account for it when its last byte is out."""

    @app.before_request
    def begin() -> None:
        # The rule, not the path: a path that somebody made up is no label.
        rule = request.url_rule.rule if request.url_rule else "none"
        g.record = Record(
            id=request_id.accept(request.headers.get(request_id.HEADER)),
            endpoint=rule,
            method=request.method,
            is_inference=rule in INFERENCE_PATHS,
        )
        if g.record.is_inference:
            metrics.ACTIVE.inc()

    @app.errorhandler(ClientGoneError)
    def client_gone(_: ClientGoneError) -> Response:
        return Response(status=CLIENT_GONE_STATUS)

    @app.after_request
    def end_with(response: Response) -> Response:
        record = current_record()
        response.headers[request_id.HEADER] = record.id
        # The server closes a response in every case, also when the client is gone.
        response.call_on_close(lambda: _account_for(record, response.status_code))
        return response


def log_to_stdout(level: str) -> None:
    """Write the log lines to standard output, where the journal picks them up."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for log in (_log, journal.log):
        log.addHandler(handler)
        log.setLevel(level.upper())
        log.propagate = False


def _account_for(record: Record, status: int) -> None:
    duration = time.monotonic() - record.started
    outcome = record.outcome(status)
    if record.is_inference:
        metrics.ACTIVE.dec()
        metrics.REQUESTS.labels(endpoint=record.endpoint, status=str(status), outcome=outcome).inc()
        if record.answer is not None:  # a refusal takes no time and would hide what answers take
            metrics.DURATION.labels(endpoint=record.endpoint).observe(duration)
    line = {
        "event": "request",
        "id": record.id,
        "method": record.method,
        "endpoint": record.endpoint,
        "status": status,
        "outcome": outcome,
        "backend": record.answer.backend if record.answer else None,
        "stream": record.stream,
        "client": record.ticket.client if record.ticket else None,
        "queue_s": round(record.ticket.queued_s, 3) if record.ticket else None,
        "duration_s": round(duration, 3),
    }
    probe_passed = record.endpoint in ("/health", "/livez") and outcome == "completed"
    _log.log(logging.DEBUG if probe_passed else logging.INFO, "%s", json.dumps(line))
