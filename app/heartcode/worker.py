"""gunicorn's gevent worker, with manners: how it ends, and how it refuses what is not HTTP.

gunicorn's own would cut the streams that are still running when the time for them is over, and
would answer what its parser refuses with HTML.

gunicorn's master imports this module before a worker exists, so that what belongs to a worker alone
(the metrics; whatever gevent has to patch first) is imported where it is used.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gunicorn.http import errors
from gunicorn.workers.ggevent import GeventWorker

if TYPE_CHECKING:
    from heartcode.rig import Rig

# After the time for running requests is over: for their last words, and for seeing that they ended.
LAST_WORDS_S = 5

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
    """Serves until SIGTERM; then running requests have `grace_s` seconds, and a word at the end."""

    grace_s: float  # set when the worker is forked
    _ends_at: float | None = None

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGTERM: accept nothing new; the time for what is running begins."""
        super().handle_exit(sig, frame)
        self._ends_at = time.monotonic() + self.grace_s

    def notify(self) -> None:
        """Tell the master every second that the worker lives; end what has had its time."""
        super().notify()
        if self._ends_at is not None and time.monotonic() >= self._ends_at:
            self._ends_at = None
            rig: Rig = self.wsgi.extensions["heartcode"]
            rig.end_requests()

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer what gunicorn's parser refuses in OpenAI's shape."""
        for kind, status, code, message in _REFUSALS:
            if isinstance(exc, kind):
                self.log.info("refused: %s (%s)", message, type(exc).__name__)
                with suppress(OSError):  # the client may not wait for it
                    client.sendall(_answer(status, code, message))
                return
        super().handle_error(req, client, addr, exc)


def _answer(status: int, code: str, message: str) -> bytes:
    from heartcode.errors import ApiError  # noqa: PLC0415 - see the module's docstring

    body = json.dumps(ApiError(status, message, code=code).body()).encode()
    head = (
        f"HTTP/1.1 {status} {code}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
