"""An upstream that does what a real llama-server cannot be made to do at will."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from heartcode.health import probe
from heartcode.upstream import identity

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What arrived, to the byte."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Connection:
    """The upstream's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read_request(self) -> Request:
        with self._socket.makefile("rb") as stream:
            method, path, _ = stream.readline().decode().split()
            headers = {}
            while line := stream.readline().decode().strip():
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            body = stream.read(int(headers.get("content-length", 0)))
        return Request(method=method, path=path, headers=headers, body=body)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def answer(self, status: str, body: bytes, content_type: str = "application/json") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}"
        self.send(head.encode() + b"\r\n\r\n" + body)

    def start_stream(self) -> None:
        self.send(STREAM_HEAD)

    def chunk(self, data: bytes) -> None:
        self.send(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def end_stream(self) -> None:
        self.chunk(b"data: [DONE]\n\n")
        self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Hang up the hard way: the other end gets ECONNRESET."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def wait_until_hung_up(self) -> None:
        """Return when the other end has closed, however it did."""
        with contextlib.suppress(ConnectionError):
            while self._socket.recv(4096):
                pass


Behaviour = Callable[[Connection, Request], None]

# Of what the pinned llama-server says without a projector.
PROPS: dict[str, Any] = {
    "build_info": "b11312-0c1e57098",
    "modalities": {"vision": False, "video": False, "audio": False},
}


def is_probe(request: Request) -> bool:
    return request.headers.get("user-agent") == probe.TOKEN.headers["User-Agent"]


class Upstream:
    """Serves each connection in a thread of its own with `behave`, which may be replaced.

    The proxy's own probes are answered with `behave_when_probed` and kept apart. It says that it
    serves `model`, as llama-server does once that is loaded, in the words of `identity`, and of
    itself what `props` has besides. The exporter's questions are answered as by a llama-server
    without --metrics. A `listener` is a socket that has an address already.
    """

    def __init__(
        self,
        behave: Behaviour,
        listener: socket.socket | None = None,
        *,
        model: str = "model",
        n_ctx: int = 4096,
    ) -> None:
        self.behave = behave
        self.model = model
        self.n_ctx = n_ctx
        self.path = f"/models/{model}.gguf"
        self.behave_when_probed: Behaviour = generate_a_token
        self.introduce: Behaviour = self._introduce
        self.props = PROPS
        self.requests: list[Request] = []
        self.probes: list[Request] = []
        self._listener = listener or socket.create_server(("127.0.0.1", 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection(sock)
        # The proxy may hang up at any time; that is what some tests are about.
        with sock, contextlib.suppress(ConnectionError):
            request = connection.read_request()
            if request.path == "/health":
                # As llama-server says it, from a thread of its own, whatever else it does.
                connection.answer("200 OK", b'{"status": "ok"}')
            elif self._asks_who(request):
                self.introduce(connection, request)
            elif is_probe(request):
                self.probes.append(request)
                self.behave_when_probed(connection, request)
            elif request.path == "/metrics":
                connection.answer("501 Not Implemented", b"{}")
            else:
                self.requests.append(request)
                self.behave(connection, request)

    @staticmethod
    def _asks_who(request: Request) -> bool:
        is_probe = request.headers.get("user-agent") == identity.HEADERS["User-Agent"]
        return is_probe and request.path in (identity.MODELS.path, identity.PROPS.path)

    def _introduce(self, connection: Connection, request: Request) -> None:
        if self.behave is be_loading:
            be_loading(connection, request)
        else:
            self.introduce_itself(connection, request)

    def introduce_itself(self, connection: Connection, request: Request) -> None:
        """Say who it is, whatever it does to other requests."""
        connection.answer("200 OK", json.dumps(self.identity(request.path)).encode())

    def identity(self, path: str) -> dict[str, Any]:
        """Return what it says to `GET path`, as far as anybody reads it."""
        if path == identity.PROPS.path:
            named = {"model_alias": self.model, "model_path": self.path, "model_ftype": "Q4_K_M"}
            return {**named, **self.props}
        meta = {"n_ctx": self.n_ctx, "n_params": 8_000, "size": 5_000, "ftype": "Q4_K_M"}
        return {"data": [{"id": self.model, "aliases": [self.model], "meta": meta}]}

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in list(self._threads):
            thread.join(10)


def generate_a_token(connection: Connection, _: Request) -> None:
    """Answer a probe as a llama-server does that works."""
    connection.answer("200 OK", b'{"content": " 1", "timings": {"predicted_n": 1}}')


def serve_two_tokens(connection: Connection, request: Request) -> None:
    """Behave well."""
    if b'"stream": true' in request.body:
        connection.start_stream()
        connection.chunk(b'data: {"n":1}\n\n')
        connection.chunk(b'data: {"n":2}\n\n')
        connection.end_stream()
    else:
        connection.answer("200 OK", b'{"n": 2}')


def be_loading(connection: Connection, _: Request) -> None:
    connection.answer(
        "503 Service Unavailable",
        b'{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}',
    )


def reset_at_once(connection: Connection, _: Request) -> None:
    connection.reset()


def talk_nonsense(connection: Connection, _: Request) -> None:
    connection.send(b"this is not HTTP\r\n\r\n")


def die_after_the_head(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.reset()


def die_in_the_answer(connection: Connection, _: Request) -> None:
    connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    )


def be_silent(connection: Connection, _: Request) -> None:
    connection.wait_until_hung_up()


def answer_500_with_html(connection: Connection, _: Request) -> None:
    connection.answer("500 Internal Server Error", b"<html>oops</html>", "text/html")


def never_end_the_headers(connection: Connection, _: Request) -> None:
    connection.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.send(b"X-More: " + b"x" * 1000 + b"\r\n")


def send_half_a_chunk(connection: Connection, _: Request) -> None:
    connection.send(STREAM_HEAD + b'40\r\ndata: {"n":')


def send_half_an_event(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.chunk(b'data: {"n":')
    connection.send(b"0\r\n\r\n")


def one_event_then_silence(connection: Connection, _: Request) -> None:
    connection.start_stream()
    connection.chunk(b'data: {"n":1}\n\n')
    connection.wait_until_hung_up()
