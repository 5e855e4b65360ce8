"""gunicorn's gevent worker, with manners: how it ends, and how it refuses what is not HTTP.

gunicorn's own would cut the streams that are still running when the time for them is over, and
would answer what its parser refuses with HTML.

gunicorn's master imports this module before a worker exists: what belongs to a worker alone (the
metrics; whatever gevent has to patch first) must not be imported here.
"""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import gevent
from gunicorn.http import errors, wsgi
from gunicorn.workers.ggevent import GeventWorker

from heartcode.errors import NOT_AGAIN, ApiError
from heartcode.server.response import Response

if TYPE_CHECKING:
    from heartcode.runtime.runtime import Runtime
    from heartcode.server.hot_restart import WorkerLike

# Who spawned whom is noted for every greenlet, and nobody asks.
gevent.config.track_greenlet_tree = False

# After the time for running requests is over: for their last words, and for seeing that they ended.
LAST_WORDS_S = 5

# When the worker ends: for a request that is on its way on a connection that was idle.
_TRAVEL_S = 2

# From the master: accept nothing new, and end with the last request.
RETIRE = signal.SIGUSR2
# To the master: the worker has written how it stands to its heartbeat file, a byte for each step.
_NEWS = signal.SIGUSR2
_SERVES, _CLOSED = 1, 2

# The first that fits counts; the texts quote nothing of the request.
_REFUSALS: tuple[tuple[type[Exception], int, str, str], ...] = (
    (errors.LimitRequestLine, 414, "request_line_too_long", "the request line is too long"),
    (errors.LimitRequestHeaders, 431, "headers_too_large", "the headers are too large"),
    (errors.ExpectationFailed, 417, "expectation_failed", "the expectation cannot be met"),
    (errors.UnsupportedTransferCoding, 501, "not_implemented", "unknown transfer coding"),
    (errors.InvalidResponseHeader, 500, "internal_error", "the proxy failed"),
    (errors.InvalidResponseHeaderName, 500, "internal_error", "the proxy failed"),
    (errors.ConfigurationProblem, 500, "internal_error", "the proxy failed"),
    (errors.ParseException, 400, "bad_request", "this is not a proper HTTP request"),
)


class Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """Serves until SIGTERM or until it retires; then running requests have time, and a last word.

    That is `grace_s` after SIGTERM. After a reload, when another worker has taken over, it is as
    long as a request may take at all.
    """

    # Set when the worker is forked.
    grace_s: float
    request_timeout_s: float
    metrics_seat: int

    # The master's note that it has sent RETIRE.
    retired = False
    _step = 0
    _calls_at_the_end = 0
    _ends_at = math.inf

    def init_signals(self) -> None:
        """Listen to the master."""
        super().init_signals()
        signal.signal(RETIRE, self.handle_retire)
        signal.siginterrupt(RETIRE, False)  # noqa: FBT003 - it takes no keyword

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: accept nothing new; the time for what is running begins."""
        super().handle_exit(sig, frame)
        self._end_in(self.grace_s)

    def handle_retire(self, _sig: int, _frame: Any) -> None:
        """Accept nothing new; another worker does."""
        self.alive = False
        self.cfg.__dict__["graceful_timeout"] = math.ceil(self.request_timeout_s) + LAST_WORDS_S
        self._end_in(self.request_timeout_s)
        self.wsgi.extensions["heartcode"].retire()

    def _end_in(self, seconds: float) -> None:
        # A second SIGTERM, or one after RETIRE, gives no more time.
        self._ends_at = min(self._ends_at, time.monotonic() + seconds)

    def timeout_ctx(self) -> gevent.Timeout:
        """Return how long a connection may wait for its next request."""
        seconds = self.cfg.keepalive if self.alive else _TRAVEL_S
        return gevent.Timeout(seconds, False)  # type: ignore[arg-type] # noqa: FBT003 - "silently"

    def notify(self) -> None:
        """Tell the master every second that the worker lives; end what has had its time."""
        super().notify()
        # gunicorn's first call comes when the servers have started. The first at the end may still
        # come from the loop that accepts; when the second comes they are closed.
        self._calls_at_the_end += not self.alive
        if self._step < (_CLOSED if self._calls_at_the_end > 1 else _SERVES):
            self._step += 1
            os.write(self.tmp.fileno(), b".")
            os.kill(self.ppid, _NEWS)
        if time.monotonic() >= self._ends_at:
            self._ends_at = math.inf
            runtime: Runtime = self.wsgi.extensions["heartcode"]
            runtime.end_requests()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        """Serve one request, as gunicorn's own does without what is not in use here.

        That is its log of requests, its hooks, an end after so many requests, and files as answers.

        Raises:
            StopIteration: the connection is not to be used any more.
        """
        response = None
        try:
            response, environ = wsgi.create(
                req, sock, addr, listener_name, self.cfg, response_class=Response
            )
            if not self.alive:
                response.force_close()
            body = self.wsgi(environ, response.start_response)
            try:
                for piece in body:
                    response.write(piece)
                response.close()
            finally:
                if hasattr(body, "close"):
                    body.close()
        except gevent.GreenletExit:
            return
        except OSError:  # gunicorn knows which of them mean that the client has left
            raise
        except (Exception, SystemExit) as error:
            if response is None or not response.headers_sent:
                if isinstance(error, SystemExit):
                    return
                raise
            # A 500 would be taken for a part of what has begun.
            self.log.exception("Error handling request")
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
                sock.close()
            raise StopIteration from None
        if response.should_close():
            raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn's parser refuses in OpenAI's shape."""
        for kind, status, code, message in _REFUSALS:
            if isinstance(exc, kind):
                self.log.info("refused: %s (%s)", message, type(exc).__name__)
                with suppress(OSError):  # the client may not wait for it
                    client.sendall(_answer(status, code, message))
                return
        super().handle_error(req, client, addr, exc)


def is_serving(worker: WorkerLike) -> bool:
    """Tell the master whether the worker has begun to accept connections."""
    return os.fstat(worker.tmp.fileno()).st_size >= _SERVES


def is_closed(worker: WorkerLike) -> bool:
    """Tell the master whether the worker has ceased to accept connections."""
    return os.fstat(worker.tmp.fileno()).st_size >= _CLOSED


def _answer(status: int, code: str, message: str) -> bytes:
    body = json.dumps(ApiError(status, message, code=code).body()).encode()
    fields = {
        "Connection": "close",
        "Content-Type": "application/json",
        "Content-Length": len(body),
        **(NOT_AGAIN if status == HTTPStatus.NOT_IMPLEMENTED else {}),
    }
    lines = [f"HTTP/1.1 {status} {code}", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "\r\n"]).encode() + body
