"""One request to one backend over HTTP, and its answer as it arrives.

    with Exchange(backend.host, backend.port) as exchange:
        exchange.send(request, connect_timeout_s=2, silence_timeout_s=600)
        while data := exchange.read_some():
            ...

Plain blocking sockets: a greenlet each in the proxy, a thread each in a test. In the event loop,
which knows when there is something to read, others read and `take_in()` what they got.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from ipaddress import IPv4Address, ip_address
from time import monotonic

from httptools import HttpParserError, HttpResponseParser

from heartcode.upstream import chunked

_SERVICE_UNAVAILABLE = 503
_READ_BYTES = 64 * 1024
# llama-server's heads have about 300 bytes.
_MAX_HEAD_BYTES = 64 * 1024


class Reason(Enum):
    """Why a backend could not serve a request."""

    UNREACHABLE = "unreachable"  # nothing accepts connections there
    LOADING = "loading"  # it answers 503 until its model is in memory
    BROKEN = "broken"  # it hung up, said amid a stream that it failed, or does not speak HTTP
    ERROR = "error"  # it answers 500, and only some other backend can tell whose fault that is
    SILENT = "silent"  # it sent nothing for longer than allowed
    STOPPED = "stopped"  # somebody stopped it on purpose while it worked
    OTHER_MODEL = "other_model"  # it serves something else than what is asked for
    CONTEXT = "context"  # the prompt does not fit its context
    BUSY = "busy"  # a rig that has no slot free, or refuses what it shall go on with


class BackendError(Exception):
    """A backend failed; `reason` says how."""

    def __init__(self, reason: Reason, detail: object = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class UpstreamRequest:
    """A request as it goes to a backend; `body` is passed on byte for byte.

    `hides_progress` says that the client did not ask how far its prompt was read, see `progress`;
    `has_choices` that it asked for more than one answer, see `usage`.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    hides_progress: bool = False
    has_choices: bool = False


@dataclass(frozen=True, kw_only=True)
class KeepAlive:
    """How soon the kernel finds that a host has gone, which without power says no word of it.

    It asks after `idle_s` seconds without a packet, and every second from then on; `lost_s` seconds
    after the last packet it gives up. What was sent may be unacknowledged for as long.
    """

    idle_s: int
    lost_s: int

    def set_on(self, sock: socket.socket) -> None:
        """Watch a connection."""
        tcp = socket.IPPROTO_TCP
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(tcp, socket.TCP_KEEPIDLE, self.idle_s)
        sock.setsockopt(tcp, socket.TCP_KEEPINTVL, 1)
        sock.setsockopt(tcp, socket.TCP_KEEPCNT, max(1, self.lost_s - self.idle_s))
        sock.setsockopt(tcp, socket.TCP_USER_TIMEOUT, self.lost_s * 1000)


class _Incoming:
    """What httptools' parser finds in an answer; its methods' names are httptools'."""

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.head_is_complete = False
        self.is_complete = False
        self.chunk_is_complete = False
        self.body: list[bytes] = []
        self.on_body = self.body.append

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.head_is_complete = True

    def on_chunk_header(self) -> None:
        self.chunk_is_complete = False

    def on_chunk_complete(self) -> None:
        self.chunk_is_complete = True

    def on_message_complete(self) -> None:
        self.is_complete = True

    def take(self) -> bytes:
        """Return the body's bytes that have not been taken."""
        data = self.body[0] if len(self.body) == 1 else b"".join(self.body)
        self.body.clear()
        return data


class Exchange:
    """A connection to a backend that serves one request.

    Args:
        host, port: where the backend is.
        keep_alive: how its host is watched; None where that is this host.
        takes_503: whether a 503 is an answer as any other, and not only "not yet".

    Attributes:
        silence_s: seconds for which the backend may send nothing.
        last_heard: when it said something last, or accepted the connection (`time.monotonic()`).
            Who finds that what came says nothing sets it back.
        is_between_chunks: whether exactly all of a chunk was read last, so that whole chunks may
            follow that nobody takes in.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        keep_alive: KeepAlive | None = None,
        takes_503: bool = False,
    ) -> None:
        self._host = host
        self._port = port
        self._keep_alive = keep_alive
        self._takes_503 = takes_503
        self._socket: socket.socket | None = None
        self._descriptor = -1
        self._incoming = _Incoming()
        self._parser = HttpResponseParser(self._incoming)
        self.is_between_chunks = False
        self._aborted = False
        self.silence_s = 0.0
        self.last_heard = 0.0

    def send(
        self, request: UpstreamRequest, *, connect_timeout_s: float, silence_timeout_s: float
    ) -> None:
        """Send `request` and wait for the head of the answer.

        Raises:
            BackendError: when there is no answer, or one that only says "not yet".
        """
        try:
            self._socket = _connect(self._host, self._port, connect_timeout_s)
        except OSError as error:
            raise BackendError(Reason.UNREACHABLE, type(error).__name__) from error
        if self._keep_alive is not None:
            self._keep_alive.set_on(self._socket)
        self._descriptor = self._socket.fileno()
        self.last_heard = monotonic()
        self.be_silent_at_most(silence_timeout_s)
        if self._aborted:
            raise BackendError(Reason.BROKEN, "aborted")
        try:
            send_whole(self._socket, _head(request, self._host, self._port) + (request.body or b""))
        except OSError as error:
            raise failure(error) from error
        self.last_heard = monotonic()
        head_bytes = 0
        while not self._incoming.head_is_complete:
            head_bytes += self._receive()
            if head_bytes > _MAX_HEAD_BYTES:
                raise BackendError(Reason.BROKEN, "a head without end")
        if self.status == _SERVICE_UNAVAILABLE and not self._takes_503:
            raise BackendError(Reason.LOADING)
        if not self._incoming.headers.keys() & {b"content-length", b"transfer-encoding"}:
            # Its end would look the same as a cut.
            raise BackendError(Reason.BROKEN, "an answer without length")

    @property
    def status(self) -> int:
        """The answer's HTTP status."""
        if not self._incoming.head_is_complete:
            raise RuntimeError("no answer yet: call send() first")
        return int(self._parser.get_status_code())

    @property
    def content_type(self) -> str:
        """The answer's Content-Type."""
        default = b"application/octet-stream"
        return self._incoming.headers.get(b"content-type", default).decode("latin-1")

    def header(self, name: str) -> str | None:
        """Return a header of the answer; None without it."""
        value = self._incoming.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    @property
    def is_complete(self) -> bool:
        """Whether the answer has come to its proper end."""
        return self._incoming.is_complete

    def read_some(self) -> bytes:
        """Return what has arrived of the answer's body; b"" at its proper end.

        Raises:
            BackendError: when the answer breaks off or pauses for too long.
        """
        while not (self._incoming.body or self._incoming.is_complete):
            self._receive()
        return self._incoming.take()

    def read_all(self, most_bytes: int) -> bytes:
        """Return the rest of the answer's body.

        Raises:
            BackendError: as in `read_some()`; BROKEN when it has more than `most_bytes`.
        """
        body = bytearray()
        while piece := self.read_some():
            body += piece
            if len(body) > most_bytes:
                raise BackendError(Reason.BROKEN, "an answer without end")
        return bytes(body)

    def take_in(self, piece: bytes) -> bytes:
        """Take what was read from `fileno()`; return what is in it of the answer's body, if any.

        Raises:
            BackendError: when the answer breaks off.
        """
        self._feed(piece)
        return self._incoming.take()

    def _receive(self) -> int:
        """Wait for more of the answer; return how many bytes came."""
        if self._socket is None:
            raise RuntimeError("no answer yet: call send() first")
        left = self.last_heard + self.silence_s - monotonic()
        if left <= 0:
            raise BackendError(Reason.SILENT)
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as error:
            data = self._waiting(error)
        self._feed(data)
        return len(data)

    def _waiting(self, error: OSError) -> bytes:
        """Return what came although the time for it was over: this program stood still itself.

        Raises:
            BackendError: nothing did.
        """
        # With a number it is the connection's own end.
        if isinstance(error, TimeoutError) and error.errno is None and self._socket is not None:
            with suppress(OSError):
                self._socket.settimeout(0)
                return self._socket.recv(_READ_BYTES)
        raise failure(error) from error

    def _feed(self, data: bytes) -> None:
        self.last_heard = monotonic()
        if not data:
            if not self._incoming.is_complete:
                raise BackendError(Reason.BROKEN, "the answer is cut short")
            return
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            raise BackendError(Reason.BROKEN, type(error).__name__) from error
        # What follows a chunk could be the first bytes of the next one's head.
        self.is_between_chunks = self._incoming.chunk_is_complete and data.endswith(chunked.END)

    def fileno(self) -> int:
        """Return the connection's descriptor, -1 without one."""
        return self._descriptor

    def be_silent_at_most(self, seconds: float) -> None:
        """Let later reads wait for this long and no longer."""
        self.silence_s = seconds
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
        if not self.is_complete:
            self.abort()
        if self._socket is not None:
            self._descriptor = -1
            self._socket.close()

    def __enter__(self) -> Exchange:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@cache
def _family(host: str) -> int | None:
    try:
        return socket.AF_INET if isinstance(ip_address(host), IPv4Address) else socket.AF_INET6
    except ValueError:
        return None


def _connect(host: str, port: int, timeout_s: float) -> socket.socket:
    family = _family(host)
    if family is None:
        return socket.create_connection((host, port), timeout_s)
    # Without a resolver, which is a thread of its own, for what needs none.
    sock = socket.socket(family)
    try:
        # On the same host a connection is there at once, and the system says so when it is asked
        # again: no need to wait until the event loop hears of it.
        sock.settimeout(0)
        is_there = not (sock.connect_ex((host, port)) and sock.connect_ex((host, port)))
        sock.settimeout(timeout_s)
        if not is_there:
            sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def sent(
    exchange: Exchange,
    request: UpstreamRequest,
    *,
    abort_when: Iterable[Callable[[Callable[[], None]], None]],
    connect_timeout_s: float,
    silence_timeout_s: float,
) -> Exchange:
    """Return `exchange` when `request` is answered in it; whoever gets it closes it.

    Args:
        exchange: nothing was sent in it yet.
        request: what is.
        abort_when: are told what ends the exchange at once, such as `Client.when_gone`.
        connect_timeout_s: until the backend accepts the connection.
        silence_timeout_s: for which it may send nothing.

    Raises:
        BackendError: it does not answer; the exchange is closed.
    """
    try:
        for tell in abort_when:
            tell(exchange.abort)
        exchange.send(
            request, connect_timeout_s=connect_timeout_s, silence_timeout_s=silence_timeout_s
        )
    except BaseException:
        exchange.close()
        raise
    return exchange


def send_whole(sock: socket.socket, data: bytes) -> None:
    """Send all of `data`; mostly there is room for it, and gevent's sendall() asks for how much."""
    sent_bytes = sock.send(data)
    if sent_bytes < len(data):
        sock.sendall(data[sent_bytes:])


def _head(request: UpstreamRequest, host: str, port: int) -> bytes:
    bracketed = f"[{host}]" if ":" in host else host
    fields = {"Host": f"{bracketed}:{port}", **request.headers, "Connection": "close"}
    if request.body is not None:
        fields["Content-Length"] = str(len(request.body))
    lines = [f"{request.method} {request.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    if any("\r" in line or "\n" in line for line in lines):  # gunicorn lets none in
        raise ValueError("a header with a line break")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def failure(error: OSError) -> BackendError:
    """Return what an error of a backend's connection means."""
    if isinstance(error, TimeoutError):
        return BackendError(Reason.SILENT)
    return BackendError(Reason.BROKEN, type(error).__name__)
