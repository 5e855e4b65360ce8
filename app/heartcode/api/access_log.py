"""What is known of a request when it is over: one log line, and the metrics.

The line is JSON and holds no word of a prompt or an answer.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g

from heartcode.api import request_id
from heartcode.api.context import current_request, in_environ
from heartcode.api.dialect import Dialect
from heartcode.api.routes import INFERENCE_PATHS
from heartcode.client import CLIENT_GONE_STATUS, Client
from heartcode.errors import ApiError
from heartcode.relay.client_stream import ClientStream
from heartcode.relay.relay import Answer
from heartcode.routing.request_info import RequestInfo
from heartcode.telemetry import client_names, log, metrics

_REQUEST_ID = in_environ(request_id.HEADER)

# In the log's order; None in the line of a request without an answer, and where nothing was told.
_OF_AN_ANSWER = (
    *("backend", "retries", "resumes"),
    *("first_token_s", "prompt_tokens", "cached_tokens", "restored_tokens", "tokens"),
)

# By a rig that has no slot free for who may ask another one, and by one that drains.
TURNED_AWAY = "turned_away"


@dataclass(kw_only=True)
class Record:
    """One request, from its arrival to its last byte.

    `id_header` is the header that names it beside `X-Request-Id`; "" for none.
    """

    id: str
    endpoint: str
    method: str
    is_inference: bool
    id_header: str
    stream: bool = False
    model: str | None = None
    info: RequestInfo | None = None
    answer: Answer | None = None
    client: Client | None = None
    error: ApiError | None = None
    started: float = field(default_factory=time.monotonic)

    def outcome(self, status: int) -> str:
        """Say how it ended: completed, disconnected, rejected, failed or turned_away.

        Rejected is what the client's own fault was (4xx), or its impatience (429). A stream that
        failed has the status 200. Turned away is what is meant for another rig: the gateway takes
        it there, and it counts as what it becomes.
        """
        if status == CLIENT_GONE_STATUS:
            return "disconnected"
        if status == HTTPStatus.FORBIDDEN or (self.error and self.error.code == "draining"):
            return TURNED_AWAY
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return "failed"
        if status >= HTTPStatus.BAD_REQUEST:
            return "rejected"
        if self.answer is not None and isinstance(self.answer.body, ClientStream):
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
        request = current_request()
        # The rule, not the path: a path that somebody made up is no label.
        rule = request.url_rule.rule if request.url_rule else "none"
        record = Record(
            id=request_id.accept(request.environ.get(_REQUEST_ID)),
            endpoint=rule,
            method=request.method,
            is_inference=rule in INFERENCE_PATHS,
            id_header=Dialect.of(request.path).value,
        )
        g.record = record
        if record.is_inference:
            metrics.ACTIVE.inc()

    @app.after_request
    def end_with(response: Response) -> Response:
        record = current_record()
        response.headers[request_id.HEADER] = record.id
        if record.id_header:
            response.headers[record.id_header] = record.id
        # The server closes a response in every case, also when the client is gone. Nothing in it
        # may lead back to it: all of the request would stay until the garbage collector comes.
        response.call_on_close(partial(_account_for, record, response.status_code))
        return response


def _account_for(record: Record, status: int) -> None:
    duration = time.monotonic() - record.started
    outcome = record.outcome(status)
    client = client_names.label(record.info.client) if record.info else ""
    if record.is_inference:
        metrics.ACTIVE.dec()
        metrics.REQUESTS.labels(endpoint=record.endpoint, status=str(status), outcome=outcome).inc()
        if outcome != TURNED_AWAY:
            metrics.CLIENT_REQUESTS.labels(client=client, outcome=outcome).inc()
        if record.answer is not None:  # a refusal takes no time and would hide what answers take
            metrics.DURATION.labels(endpoint=record.endpoint).observe(duration)
        # Who was sent elsewhere, or turned away at the door, has not been in the queue.
        if record.info and (record.answer is not None or record.info.queued_s):
            metrics.QUEUE_SECONDS.observe(record.info.queued_s)
    line: dict[str, Any] = {
        "event": "request",
        "id": record.id,
        "method": record.method,
        "endpoint": record.endpoint,
        "status": status,
        "outcome": outcome,
        "client": record.info.client if record.info else None,
        "model": record.model,
        "stream": record.stream,
        "queue_s": round(record.info.queued_s, 3) if record.info else None,
        **dict.fromkeys(_OF_AN_ANSWER),
        "duration_s": round(duration, 3),
    }
    if record.answer is not None:
        line |= _account_for_answer(record, record.answer, client)
    probe_passed = record.endpoint in ("/health", "/v1/health", "/livez") and outcome == "completed"
    log.requests.log(logging.DEBUG if probe_passed else logging.INFO, json.dumps(line))


def _account_for_answer(record: Record, answer: Answer, client: str) -> dict[str, Any]:
    """Count the answer's tokens and times; return what is known of them for the log."""
    source = answer.source
    line: dict[str, Any] = {
        "backend": answer.backend,
        "retries": answer.retries,
        "resumes": source.resumes,
    }
    if not record.is_inference:
        return line
    model, token_times, usage = record.model or "", source.token_times, source.usage
    token_times.report(since=record.started, model=model)
    if token_times.first is not None:
        line["first_token_s"] = round(token_times.first - record.started, 3)
    if usage is not None:
        prompt = round(usage.evaluated + usage.cached)
        restored = record.info.restored_tokens if record.info else 0
        if prompt:  # unknown when the answer broke off
            line |= {"prompt_tokens": prompt, "cached_tokens": round(usage.cached)}
            line["restored_tokens"] = restored
        line["tokens"] = round(usage.generated)
        for kind, number in (
            ("prompt", prompt),
            ("cached", usage.cached),
            ("restored", restored),
            ("completion", usage.generated),
        ):
            metrics.TOKENS.labels(kind=kind, model=model).inc(number)
            metrics.CLIENT_TOKENS.labels(kind=kind, client=client).inc(number)
    return line
