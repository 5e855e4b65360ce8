"""One request to one backend over HTTP, and its answer as it arrives.

    with Exchange(backend.host, backend.port) as exchange:
        exchange.send(call, connect_timeout_s=2, silence_timeout_s=600)
        while data := exchange.read_some():
            ...

Plain blocking sockets: a greenlet each in the proxy, a thread each in a test.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from http.client import HTTPConnection, HTTPException, HTTPResponse

_SERVICE_UNAVAILABLE = 503
_READ_BYTES = 64 * 1024


class Reason(Enum):
    """Why a backend could not serve a request."""

    UNREACHABLE = "unreachable"  # nothing accepts connections there
    LOADING = "loading"  # it answers 503 until its model is in memory
    BROKEN = "broken"  # it hung up, or what it says is not HTTP
    ERROR = "error"  # it answers 500, and only some other backend can tell whose fault that is
    SILENT = "silent"  # it sent nothing for longer than allowed


class BackendError(Exception):
    """A backend failed; `reason` says how."""

    def __init__(self, reason: Reason, detail: object = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request as it goes to a backend; `body` is passed on byte for byte.

    `hides_progress` says that the client did not ask how far its prompt was read, see `progress`.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hides_progress: bool = False


@contextmanager
def _failures_named() -> Generator[None]:
    try:
        yield
    except TimeoutError as error:
        raise BackendError(Reason.SILENT) from error
    except (OSError, HTTPException) as error:
        raise BackendError(Reason.BROKEN, type(error).__name__) from error


class Exchange:
    """A connection to a backend that serves one request."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = HTTPConnection(host, port)
        self._socket: socket.socket | None = None
        self._response: HTTPResponse | None = None
        self._aborted = False

    def send(self, call: Call, *, connect_timeout_s: float, silence_timeout_s: float) -> None:
        """Send `call` and wait for the head of the answer.

        Raises:
            BackendError: when there is no answer, or one that only says "not yet".
        """
        self._connection.timeout = connect_timeout_s
        try:
            self._connection.connect()
        except OSError as error:
            raise BackendError(Reason.UNREACHABLE, type(error).__name__) from error
        self._socket = self._connection.sock
        self._socket.settimeout(silence_timeout_s)
        if self._aborted:
            raise BackendError(Reason.BROKEN, "aborted")
        with _failures_named():
            self._connection.request(call.method, call.path, call.body, dict(call.headers))
            response = self._response = self._connection.getresponse()
        if response.status == _SERVICE_UNAVAILABLE:
            raise BackendError(Reason.LOADING)
        if not response.chunked and response.length is None:
            # Its end would look the same as a cut.
            raise BackendError(Reason.BROKEN, "an answer without length")

    @property
    def status(self) -> int:
        """The answer's HTTP status."""
        return self._answer.status

    @property
    def content_type(self) -> str:
        """The answer's Content-Type."""
        return self._answer.headers.get("Content-Type", "application/octet-stream")

    @property
    def _answer(self) -> HTTPResponse:
        if self._response is None:
            raise RuntimeError("no answer yet: call send() first")
        return self._response

    def read_some(self) -> bytes:
        """Return what has arrived, at most one chunk of the answer; b"" at its proper end.

        Raises:
            BackendError: when the answer breaks off or pauses for too long.
        """
        with _failures_named():
            data = self._answer.read1(_READ_BYTES)
        if not data and self._answer.length:  # http.client tells of a cut only in chunked answers
            raise BackendError(Reason.BROKEN, "the answer is cut short")
        return data

    def be_silent_at_most(self, seconds: float) -> None:
        """Let later reads wait for this long and no longer."""
        if self._socket is not None:
            self._socket.settimeout(seconds)

    def abort(self) -> None:
        """End the exchange from any thread or greenlet; one that is reading gets BackendError.

        The backend sees its peer leave and stops generating, so its slot is free again.
        """
        self._aborted = True
        if self._socket is not None:
            with suppress(OSError):  # the other side was quicker
                self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the exchange, finished or not."""
        self.abort()
        if self._response is not None:
            self._response.close()
        self._connection.close()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
