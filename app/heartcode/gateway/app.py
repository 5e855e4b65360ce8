"""The gateway's relay as a WSGI application: nginx in front of it, rigs behind it.

nginx asks for a rig at the address of this host that stands for it (HEARTCODE_RIG_ADDRESSES);
127.0.0.1 has `/livez` and `/metrics`. No Flask: there is nothing to route, and nothing of a
request is looked at but what another rig would need to go on with its answer.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from heartcode.api import request_id
from heartcode.api.dialect import Dialect
from heartcode.api.routes import ENDPOINTS
from heartcode.client import CLIENT_GONE_STATUS, Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.fields import Fields
from heartcode.gateway import metrics
from heartcode.gateway.kept import SIGNS, KeptRequest, TellingAnswer, Timeouts, ToldError
from heartcode.gateway.rigs import Rigs
from heartcode.relay import sse
from heartcode.relay.client_stream import ClientStream, Opened
from heartcode.relay.client_watch import Deadline, SocketWatch
from heartcode.relay.fast_path import ClientWriter
from heartcode.relay.future import Future
from heartcode.relay.transcript import Transcript, transcript_of
from heartcode.routing.backend import Backend
from heartcode.settings import Settings
from heartcode.telemetry import log
from heartcode.upstream.exchange import UpstreamRequest

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

# What goes on to a rig of a request's headers; nginx has taken off what a client must not say.
_PASSED_ON = {
    "HTTP_ACCEPT": "Accept",
    "CONTENT_TYPE": "Content-Type",
    "HTTP_X_HEARTCODE_CLIENT": "X-HeartCode-Client",
    "HTTP_X_HEARTCODE_MODEL": "X-HeartCode-Model",
    "HTTP_X_HEARTCODE_TRY": "X-HeartCode-Try",
}
_OWN_ADDRESS = "127.0.0.1"
_PATHS = {path: endpoint.path for endpoint in ENDPOINTS for path in endpoint.paths}
_FAILED = (HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT)


class Application:
    """The relay of one gateway, as one process serves it."""

    def __init__(self, settings: Settings) -> None:
        # gunicorn's worker looks for its runtime there.
        self.extensions = {"heartcode": self}
        self.settings = settings
        self.rigs = Rigs(settings)
        self.running: set[Client] = set()
        self.timeouts = Timeouts(
            connect_s=settings.connect_timeout_s,
            silence_s=settings.silence_timeout_s,
            signs_s=settings.rig_silence_s / SIGNS,
        )

    def start(self) -> None:
        """Begin to serve: nothing has to run besides."""

    def stop(self) -> None:
        """Serve no more."""

    def retire(self) -> None:
        """Leave new requests to another process: nothing here is meant for them."""

    def end_requests(self) -> None:
        """Give up every client that is still being served: this process is about to end."""
        for client in tuple(self.running):
            client.give_up(ApiError(503, "the gateway is restarting", code="restarting"))

    def __call__(self, environ: dict[str, Any], start: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        address = environ["gunicorn.socket"].getsockname()[0]
        rig = self.rigs.at(address)
        if rig is None and address == _OWN_ADDRESS:
            return self._own(environ["PATH_INFO"], start)
        if rig is None:  # nginx knows another list of them, for a moment: it goes on to the next
            error = ApiError(502, "there is no rig at this address", code="rig_failed")
            return _json(start, HTTPStatus.BAD_GATEWAY, error.body())
        return _Passage(self, environ, rig).answered(start)

    def _own(self, path: str, start: StartResponse) -> Iterable[bytes]:
        if path == "/metrics":
            start("200 OK", [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")])
            return [metrics.page(self.settings.metrics_dir)]
        if path == "/livez":
            return _json(start, HTTPStatus.OK, {"status": "ok"})
        error = ApiError(404, "there is nothing at this path", code="not_found")
        return _json(start, HTTPStatus.NOT_FOUND, error.body())


class _Passage:
    """One request on its way through, and the account of it."""

    def __init__(self, app: Application, environ: Mapping[str, Any], rig: Backend) -> None:
        self._app = app
        self._environ = environ
        self._began = time.monotonic()
        self._path: str = environ["PATH_INFO"]
        self._id = request_id.accept(environ.get("HTTP_X_REQUEST_ID"))
        self._client = Client()
        self._held = ExitStack()
        self._status = 0
        self._stream: ClientStream | None = None
        model = str(environ.get("HTTP_X_HEARTCODE_MODEL", ""))
        self._budget = app.rigs.budget(rig, model=model)
        body: bytes = environ["wsgi.input"].read()
        self._is_streamed, self._transcript = _read(_PATHS.get(self._path, ""), body)
        headers = {to: environ[name] for name, to in _PASSED_ON.items() if name in environ}
        headers[request_id.HEADER] = self._id
        self._kept = KeptRequest(
            UpstreamRequest(
                method=environ["REQUEST_METHOD"],
                path=environ["RAW_URI"],
                headers=headers,
                body=body,
            ),
            client=self._client,
            budget=self._budget,
            timeouts=app.timeouts,
            transcript=self._transcript,
        )

    def answered(self, start: StartResponse) -> Iterable[bytes]:
        """Return the answer's body; the head goes to `start`."""
        self._begin()
        try:
            opened = self._opened()
        except ClientGoneError:
            error = self._client.error
            if error is None:
                return self._end(start, CLIENT_GONE_STATUS, [], b"")
            return self._end_with(start, error)
        except ApiError as error:
            # Without the header that names the code: to nginx, this rig has failed.
            return self._end_with(start, error)
        except BaseException:
            self.close()
            raise
        if isinstance(opened, TellingAnswer):
            return self._end(start, opened.status, opened.headers, opened.body)
        if not isinstance(opened, Future):
            self._kept.is_out = True
        self._status = HTTPStatus.OK
        self._stream = self._client_stream(opened)
        start("200 OK", [*sse.HEADERS.items(), (request_id.HEADER, self._id)])
        return self

    def _begin(self) -> None:
        metrics.ACTIVE.inc()
        self._app.running.add(self._client)
        self._held.callback(self._app.running.discard, self._client)
        limit_s = self._app.settings.request_timeout_s
        self._held.enter_context(Deadline(self._client, limit_s))
        self._held.enter_context(SocketWatch(self._client, self._environ["gunicorn.socket"]))

    def _opened(self) -> Future[Opened] | Opened:
        """Return the rig's answer, or what will be it when that takes long."""
        if not self._is_streamed:
            return self._kept.open()
        with ExitStack() as held:
            opening = Future(self._kept.open)
            held.callback(opening.close)
            if opening.is_there(within_s=self._app.settings.ping_interval_s):
                return opening.take()
            self._kept.is_out = True
            held.pop_all()
            return opening

    def _client_stream(self, opened: Any) -> ClientStream:
        stream = ClientStream(
            opened,
            budget=self._budget,
            client=self._client,
            ping_interval_s=self._app.settings.ping_interval_s,
            error_event=self._error_event,
            transcript=self._transcript,
            reopen=self._kept.open if self._transcript is not None else None,
        )
        stream.writer = ClientWriter(
            self._environ["gunicorn.socket"],
            chunked=self._environ["SERVER_PROTOCOL"] not in ("HTTP/1.0", "HTTP/0.9"),
            stall_s=self._app.settings.client_stall_timeout_s,
        )
        return stream

    def _error_event(self, error: ApiError) -> bytes:
        if isinstance(error, ToldError):
            return error.event
        return Dialect.of(self._path).error_event(error, self._id)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the stream; gunicorn does, and closes it in every case."""
        return iter(self._stream or ())

    def _end_with(self, start: StartResponse, error: ApiError) -> Iterable[bytes]:
        body = Dialect.of(self._path).error_body(error, self._id)
        headers = [
            ("Content-Type", "application/json"),
            (request_id.HEADER, self._id),
            *error.headers.items(),
        ]
        return self._end(start, error.status, headers, json.dumps(body).encode() + b"\n")

    def _end(
        self, start: StartResponse, status: int, headers: list[tuple[str, str]], body: bytes
    ) -> Iterable[bytes]:
        self._status = status
        self.close()
        start(f"{status} {_phrase(status)}", [*headers, ("Content-Length", str(len(body)))])
        return [body]

    def close(self) -> None:
        """Account for the request, which is over: a line in the log, and the metrics."""
        if self._stream is not None:
            self._stream.close()
        self._held.close()
        metrics.ACTIVE.dec()
        outcome = self._outcome()
        metrics.REQUESTS.labels(outcome=outcome).inc()
        line: dict[str, Any] = {
            "event": "request",
            "id": self._id,
            "path": self._path,
            "status": self._status,
            "outcome": outcome,
            "client": self._environ.get("HTTP_X_HEARTCODE_CLIENT"),
            "model": self._environ.get("HTTP_X_HEARTCODE_MODEL"),
            "stream": self._is_streamed,
            "rig": self._budget.rig.name if self._budget.rig is not None else None,
            "moves": max(0, self._budget.moves),
            "resumes": self._stream.resumes if self._stream is not None else 0,
            "duration_s": round(time.monotonic() - self._began, 3),
        }
        log.requests.log(logging.INFO, "%s", json.dumps(line))

    def _outcome(self) -> str:
        if self._stream is not None:
            given_up = self._client.error is not None and self._stream.outcome == "disconnected"
            return "failed" if given_up else self._stream.outcome
        if self._status == CLIENT_GONE_STATUS:
            return "disconnected"
        if self._status in _FAILED:
            return "failed"
        return "refused" if self._status >= HTTPStatus.BAD_REQUEST else "completed"


def _read(path: str, body: bytes) -> tuple[bool, Transcript | None]:
    """Return whether a request is one for a stream, and what that can be continued with.

    What is no request is for no stream here: whether a rig takes it is the rig's to say.
    """
    if b'"stream"' not in body:
        return False, None
    try:
        fields = Fields.of(body)
        is_streamed = fields.get("stream") is True
        return is_streamed, transcript_of(path, fields) if is_streamed else None
    except (ValueError, RecursionError):
        return False, None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _json(start: StartResponse, status: HTTPStatus, told: Mapping[str, Any]) -> Iterable[bytes]:
    body = json.dumps(told).encode() + b"\n"
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    start(f"{status.value} {status.phrase}", headers)
    return [body]
