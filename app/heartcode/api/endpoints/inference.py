"""Everything that a backend answers: generating, embedding, tokenizing, ..."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request
from gevent import Timeout
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge, RequestTimeout
from werkzeug.wsgi import get_content_length

from heartcode.api import media, read_for_gateway, request_id, validation
from heartcode.api.access_log import current_record
from heartcode.api.context import current_request, current_runtime, in_environ
from heartcode.api.dialect import Dialect
from heartcode.api.error_handlers import response_of
from heartcode.api.flask_app import StreamResponse
from heartcode.api.routes import ENDPOINTS, Endpoint, Kind
from heartcode.client import Client, ClientGoneError
from heartcode.errors import NOT_AGAIN, ApiError
from heartcode.relay import sse
from heartcode.relay.between_rigs import BEGUN_HEADER, SIGNS_HEADER, Begun, signs_wanted
from heartcode.relay.buffered import WholeAnswer
from heartcode.relay.client_stream import ClientStream
from heartcode.relay.client_watch import Deadline, SocketWatch
from heartcode.relay.fast_path import ClientWriter
from heartcode.relay.relay import Answer, Request
from heartcode.relay.transcript import transcript_of
from heartcode.routing.model_registry import DEFAULT_HEADER
from heartcode.routing.request_info import CLIENT_HEADER, OVERFLOW_HEADER, Overflow, RequestInfo
from heartcode.routing.room import going_on
from heartcode.settings import Settings
from heartcode.upstream import progress
from heartcode.upstream.exchange import UpstreamRequest

bp = Blueprint("inference", __name__)

# Everything else stays here: keys are the gateway's business, a compressed answer could not be
# passed on event by event, and X-Conversation-Id would let an answer outlive its client.
_PASSED_ON = {in_environ("Accept"): "Accept", "CONTENT_TYPE": "Content-Type"}
# Which slot works on a request is the proxy's business: llama-server would let it wait for that one
# beside others that are free, and a number beyond the last one counts from the first again.
_CHOSEN_HERE = {"id_slot"}
# How many answers are asked for.
_CHOICES = ("n", "n_cmpl")
_BEGUN, _CLIENT, _DEFAULT, _OVERFLOW, _SIGNS = map(
    in_environ, (BEGUN_HEADER, CLIENT_HEADER, DEFAULT_HEADER, OVERFLOW_HEADER, SIGNS_HEADER)
)


def relay(endpoint: Endpoint) -> Response:
    """Relay the request to a backend of this rig that serves its model."""
    runtime, record, environ = current_runtime(), current_record(), current_request().environ
    settings = runtime.settings
    runtime.draining.refuse_new()
    # llama-server takes the NUL that ends a string of C for the end of the body.
    body = _whole_body(environ, settings).partition(b"\0")[0]
    fields = validation.parse(body, max_depth=settings.max_json_depth)
    stage = environ.get(_OVERFLOW)
    if stage == read_for_gateway.WANTED:
        raise read_for_gateway.told(fields)
    validation.check(fields, endpoint, max_tokens=settings.max_tokens)
    left_out = _CHOSEN_HERE & fields.keys()
    if progress.FIELD in fields and not progress.is_asked_for(fields):
        left_out.add(progress.FIELD)
    if left_out:
        fields = fields.without(left_out)
        body = fields.encoded()
    model = runtime.registry.chosen_by(fields.get("model"), default=environ.get(_DEFAULT))
    record.model = model.id
    serving = media.taking(model.backends, fields, model=model.id)
    begun = Begun.of(environ.get(_BEGUN))
    record.stream = fields.get("stream") is True
    if endpoint.kind is not Kind.CONVERTS:
        secret = runtime.warm.secret if runtime.warm is not None else None
        record.info = _info(endpoint.own(fields), environ, Overflow.of(stage), begun, secret)
    elif begun is not None:
        serving = going_on(serving, begun.identity)
    transcript = transcript_of(endpoint.path, fields)
    hides_progress = transcript is not None and record.stream and not progress.is_asked_for(fields)
    upstream_request = UpstreamRequest(
        method="POST",
        path=endpoint.path,
        headers=_headers(environ, record.id),
        body=progress.asked_for(body) if hides_progress else body,
        hides_progress=hides_progress,
        has_choices=any(fields.get(name) not in (None, 1) for name in _CHOICES),
    )
    client = record.client = Client()
    with ExitStack() as watched:
        runtime.running.add(client)
        watched.callback(runtime.running.discard, client)
        watched.enter_context(Deadline(client, settings.request_timeout_s))
        # The backend's connection is shut as soon as the client leaves. When the slot is free is up
        # to llama-server: at the next token or sign of progress. Without either it looks for its
        # peer only after a second in which no slot had a result (server-queue.cpp,
        # recv_with_timeout).
        sock = environ.get("gunicorn.socket")
        if sock is not None:
            watched.enter_context(SocketWatch(client, sock))
        signs_s = signs_wanted(environ.get(_SIGNS))
        asked = Request(
            upstream_request=upstream_request,
            client=client,
            serving=serving,
            info=record.info,
            error_event=partial(Dialect.of(endpoint.path).error_event, request_id=record.id),
            signs_s=signs_s,
            goes_on=begun is not None,
        )
        try:
            if record.stream:
                record.answer = runtime.relay.stream(asked, transcript)
            elif transcript is not None:
                record.answer = runtime.relay.collect(asked, transcript, fields)
            else:
                record.answer = runtime.relay.ask(asked)
        except ClientGoneError:
            raise client.error or ClientGoneError from None
        response = _response(record.answer, environ, settings.client_stall_timeout_s, signs_s)
        response.call_on_close(watched.pop_all().close)
    return response


for _endpoint in ENDPOINTS:
    for _path in _endpoint.paths:
        bp.post(_path, endpoint=_path.strip("/").replace("/", "_"))(partial(relay, _endpoint))


def _headers(environ: Mapping[str, Any], identity: str) -> dict[str, str]:
    """Return the headers that a backend gets."""
    passed_on = {to: environ[name] for name, to in _PASSED_ON.items() if name in environ}
    return {**passed_on, request_id.HEADER: identity}


def _info(
    fields: Mapping[str, Any],
    environ: Mapping[str, Any],
    overflow: Overflow,
    begun: Begun | None,
    secret: bytes | None,
) -> RequestInfo:
    """Return what routing has to know; `begun` is a stream of another rig that goes on here."""
    info = RequestInfo.of(fields, environ.get(_CLIENT), overflow=overflow, secret=secret)
    if begun is not None:
        begun.note_in(info)
        # It has had its turn. While it may try another rig, it asks for a free slot as any other.
        info.admitted = overflow is not Overflow.WHEN_BUSY
    return info


def _whole_body(environ: dict[str, Any], settings: Settings) -> bytes:
    """Return the request's body; in `wsgi.input` it ends where it ends, as gunicorn sees to.

    Raises:
        HTTPException: 413 when it is too large, 408 when it does not come, 400 when it breaks off.
    """
    most, length, body = settings.max_body_bytes, get_content_length(environ) or 0, None
    if length > most:
        raise RequestEntityTooLarge
    # Whoever stops in the middle would hold the connection for good; nginx sends what it has whole.
    with Timeout(settings.client_stall_timeout_s, False):  # type: ignore[arg-type] # noqa: FBT003 - "silently"
        try:
            body = environ["wsgi.input"].read(most + 1)
        except (OSError, ValueError):
            raise ClientDisconnected from None
    if body is None:
        raise RequestTimeout("the body did not come to its end in time")
    if len(body) < length:  # gunicorn says nothing of it
        raise ClientDisconnected
    if len(body) > most:
        raise RequestEntityTooLarge
    return bytes(body)


def _response(
    answer: Answer, environ: Mapping[str, Any], stall_s: float, signs_s: float | None
) -> Response:
    if not isinstance(answer.body, ClientStream):
        return _whole(answer, answer.body)
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        answer.body.writer = ClientWriter(sock, chunked=_is_chunked(environ), stall_s=stall_s)
    told = {} if signs_s is None else {SIGNS_HEADER: f"{signs_s:g}"}
    return StreamResponse(answer.body, status=answer.status, headers={**sse.HEADERS, **told})


def _whole(answer: Answer, body: bytes) -> Response:
    if not isinstance(answer.source, WholeAnswer) or answer.status < HTTPStatus.BAD_REQUEST:
        return Response(body, status=answer.status, content_type=answer.content_type)
    if Dialect.of(request.path) is Dialect.OPENAI:
        response = Response(body, status=answer.status, content_type=answer.content_type)
    else:  # llama-server tells errors as OpenAI does whatever it was asked for
        told = answer.source.as_error()
        response = response_of(ApiError(answer.status, told.message, code=told.code))
    if answer.source.is_agreed_on:
        response.headers.update(NOT_AGAIN)
    return response


def _is_chunked(environ: Mapping[str, Any]) -> bool:
    """Return whether gunicorn sends a stream in chunks, as its Response.is_chunked() does."""
    return bool(environ["SERVER_PROTOCOL"] not in ("HTTP/1.0", "HTTP/0.9"))
