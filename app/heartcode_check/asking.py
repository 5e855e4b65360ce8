"""One request, and what can go wrong with it."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any
from urllib.parse import urljoin

#: Seconds until there is a connection.
CONNECT_S = 5.0
# For each of a name's addresses: after one that leads nowhere there is time for another.
_ADDRESS_S = 2.4
_READ_BYTES = 64 * 1024
# X509_V_FLAG_PARTIAL_CHAIN; it has a name since Python 3.10.
_PARTIAL_CHAIN = getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0x80000)


@dataclass(frozen=True)
class Server:
    """Whom to ask.

    Attributes:
        url: without `/v1` and without a slash at its end.
        key: the API key; "" for none. It is not shown when this is printed.
        timeout_s: seconds that a whole answer may take.
    """

    url: str
    key: str = field(default="", repr=False)
    timeout_s: float = 60.0


class Fault(Enum):
    """Why there is no answer, or only a part of one."""

    RESOLVE = "resolve"
    CONNECT = "connect"
    TIME = "time"
    TLS = "tls"
    CUT = "cut"
    OTHER = "other"


@dataclass
class Answer:
    """What came back.

    Attributes:
        status: 0 if not even that came.
        content_type: as the server says it, "" if it does not.
        redirect: where it redirects to, "" if it does not.
        body: what came of it.
        fault: None for a whole answer.
        reason: more about a fault, in a few words.
        seconds: from the request to the end.
        first_byte_s: from the request to the first byte of the answer.
    """

    status: int = 0
    content_type: str = ""
    redirect: str = ""
    body: bytes = b""
    fault: Fault | None = None
    reason: str = ""
    seconds: float = 0.0
    first_byte_s: float = 0.0

    @property
    def text(self) -> str:
        """The body; what is no UTF-8 in it is replaced."""
        return self.body.decode(errors="replace")


def ask(server: Server, path: str, body: bytes | None = None) -> Answer:
    """Send a GET, or a POST of JSON if there is a body; follow no redirect.

    A thread asks, and is left alone when the time is over: so nothing that a name's servers, an
    address or a server do can take longer, byte by byte or not at all.
    """
    exchange = _Exchange(server, path, body)
    thread = threading.Thread(target=exchange.run, daemon=True)
    thread.start()
    if exchange.is_connected.wait(min(CONNECT_S, server.timeout_s)):
        thread.join(max(0.0, exchange.started + server.timeout_s - time.monotonic()))
    is_late = thread.is_alive()
    # A copy: a thread that is left alone may still write.
    answer = replace(exchange.answer, body=bytes(exchange.received))
    if is_late:
        answer.fault, answer.seconds = Fault.TIME, server.timeout_s
    return answer


class _Exchange:
    """A request on its way; `run` fills `answer` and `received`."""

    def __init__(self, server: Server, path: str, body: bytes | None) -> None:
        self.answer = Answer()
        self.received = bytearray()
        #: Also set when it has ended without a connection.
        self.is_connected = threading.Event()
        self.started = time.monotonic()
        self._server, self._path, self._body = server, path, body

    def run(self) -> None:
        answer = self.answer
        answer.fault = Fault.OTHER
        try:
            self._ask()
            answer.fault = None
        # What begins, ends and fails while a connection is made is told in many ways.
        except (OSError, http.client.HTTPException, ValueError) as error:
            answer.fault, answer.reason = _fault(error, is_connected=self.is_connected.is_set())
        answer.seconds = time.monotonic() - self.started
        self.is_connected.set()

    def _ask(self) -> None:
        headers = {"User-Agent": "health_check.sh"}
        if self._body is not None:
            headers["Content-Type"] = "application/json"
        if self._server.key:
            headers["Authorization"] = f"Bearer {self._server.key}"
        url = self._server.url + self._path
        request = urllib.request.Request(url, self._body, headers)  # noqa: S310 (the URL was looked at)
        opener = urllib.request.build_opener(
            _Plain(self.is_connected), _Tls(self.is_connected), _AsItIs
        )
        with opener.open(request, timeout=_ADDRESS_S) as response:
            answer = self.answer
            answer.first_byte_s = time.monotonic() - self.started
            answer.content_type = response.headers.get("Content-Type", "")
            if "Location" in response.headers:
                answer.redirect = urljoin(url, response.headers["Location"])
            answer.status = response.status
            while True:
                some = response.read1(_READ_BYTES)
                if not some:
                    break
                self.received += some
            # read1 says nothing about an end that comes too early.
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Takes every status for an answer: redirects and refusals are what is looked for."""

    def http_response(self, request: Any, response: Any) -> Any:  # noqa: ARG002 (the base's)
        return response

    https_response = http_response


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, is_connected: threading.Event) -> None:
        super().__init__()
        self._is_connected = is_connected

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_PlainConnection, self._is_connected), request)


class _Tls(urllib.request.HTTPSHandler):
    def __init__(self, is_connected: threading.Event) -> None:
        super().__init__()
        self._is_connected = is_connected

    def https_open(self, request: urllib.request.Request) -> Any:
        connection = partial(_TlsConnection, self._is_connected, context=_tls_context())
        return self.do_open(connection, request)


class _PlainConnection(http.client.HTTPConnection):
    def __init__(self, is_connected: threading.Event, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._is_connected = is_connected

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(None)
        self._is_connected.set()


class _TlsConnection(_PlainConnection, http.client.HTTPSConnection):
    """The same; connected is what has agreed on TLS."""


def _tls_context() -> ssl.SSLContext:
    """Trust what curl trusts, the file in CURL_CA_BUNDLE or the system's.

    Raises:
        ssl.SSLError: there is no such file, or no certificate in it.
    """
    bundle = os.environ.get("CURL_CA_BUNDLE") or None
    try:
        context = ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise ssl.SSLError(0, f"CURL_CA_BUNDLE: {bundle}: {error.strerror or error}") from error
    # As curl: a certificate that was given is trusted, whatever it lacks of a CA's.
    context.verify_flags |= _PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _fault(error: Exception, *, is_connected: bool) -> tuple[Fault, str]:
    """What an error is, and what it says where that is worth reading."""
    reason: object = error
    while isinstance(reason, urllib.error.URLError):
        reason = reason.reason
    if isinstance(reason, http.client.IncompleteRead) or (
        is_connected and isinstance(reason, OSError)
    ):
        return Fault.CUT, ""
    if isinstance(reason, http.client.HTTPException):
        return Fault.OTHER, f"the answer is not HTTP: {_words(reason)}"
    # The first that fits counts: all of them are errors of the operating system as well.
    kinds = {
        socket.gaierror: Fault.RESOLVE,
        ssl.SSLError: Fault.TLS,
        socket.timeout: Fault.TIME,
        OSError: Fault.CONNECT,
    }
    kind = next((kinds[kind] for kind in kinds if isinstance(reason, kind)), Fault.OTHER)
    return kind, _words(reason)


def _words(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", None):
        return error.reason.replace("_", " ").lower()
    return str(error) or type(error).__name__
