"""The endpoints that generate text, streamed or not."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any

from flask import Blueprint, Response, request
from werkzeug.exceptions import RequestEntityTooLarge

from heartcode import request_id, resume, sse
from heartcode.admission import CLIENT_HEADER, Ticket
from heartcode.client import Client, SocketWatch
from heartcode.errors import ApiError
from heartcode.observe import current_record
from heartcode.relay import Answer
from heartcode.rig import current_rig
from heartcode.stream import EventStream
from heartcode.upstream import Call

bp = Blueprint("inference", __name__)

# Everything else stays here: keys are the gateway's business, a compressed answer could not be
# passed on event by event, and X-Conversation-Id would let an answer outlive its client.
_PASSED_ON = ("Accept", "Content-Type")


@bp.post("/v1/chat/completions")
@bp.post("/v1/completions")
def complete() -> Response:
    """Relay the request to a backend of this rig."""
    rig = current_rig()
    rig.refuse_if_draining()
    body = _whole_body()
    record = current_record()
    fields = _json_object(body)
    record.stream = fields.get("stream") is True
    ticket = record.ticket = Ticket.of(fields, request.headers.get(CLIENT_HEADER))
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    headers[request_id.HEADER] = record.id
    call = Call(method="POST", path=request.path, headers=headers, body=body)
    client = Client()
    with ExitStack() as watched:
        # The backend's connection is shut as soon as the client leaves. When the slot is free is up
        # to llama-server: at the next token of a stream. For an answer that is not streamed, and
        # while a prompt is evaluated, it looks for its peer only after a second in which no slot
        # had a result (server-queue.cpp, recv_with_timeout).
        if "gunicorn.socket" in request.environ:
            watch = SocketWatch(client, request.environ["gunicorn.socket"])
            watched.enter_context(watch)
        transcript = resume.transcript_of(request.path, fields)
        if record.stream:
            record.answer = rig.relay.stream(call, client, ticket, transcript)
        elif transcript is not None:
            record.answer = rig.relay.collect(call, client, ticket, transcript, fields)
        else:
            record.answer = rig.relay.ask(call, client, ticket=ticket)
        response = _response(record.answer)
        response.call_on_close(watched.pop_all().close)
    return response


def _whole_body() -> bytes:
    body = request.get_data(cache=False)
    # Of a chunked body Werkzeug reads as much as is allowed and leaves the rest without a word.
    if request.content_length is None and request.environ["wsgi.input"].read(1):
        raise RequestEntityTooLarge
    return body


def _json_object(body: bytes) -> dict[str, Any]:
    """Return the body's fields; llama-server itself answers bad JSON with a 500."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise ApiError(400, "the body is not a JSON object", code="invalid_json")
    return fields


def _response(answer: Answer) -> Response:
    if isinstance(answer.body, EventStream):
        # Not with direct_passthrough: call_on_close() would have no effect then.
        return Response(answer.body, status=answer.status, headers=sse.HEADERS)
    return Response(answer.body, status=answer.status, content_type=answer.content_type)
