from __future__ import annotations

import re
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.config import Config
from heartcode.server.response import Response
from heartcode.server.worker import Worker

STREAM = [("Content-Type", "text/event-stream")]


class Socket:
    """Takes at most `room` bytes at a time where it may say so."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room = room
        self.pieces: list[bytes] = []
        self.is_shut = self.is_closed = False

    def send(self, data: bytes) -> int:
        self.pieces.append(data[: self.room])
        return len(self.pieces[-1])

    def sendall(self, data: bytes) -> None:
        self.pieces.append(data)

    def shutdown(self, _how: int) -> None:
        self.is_shut = True

    def close(self) -> None:
        self.is_closed = True

    @property
    def sent(self) -> bytes:
        return b"".join(self.pieces)


def request(method: str = "POST", version: tuple[int, int] = (1, 1)) -> Any:
    return SimpleNamespace(
        method=method,
        version=version,
        headers=[],
        should_close=lambda: version < (1, 1),
        body=None,
        query="",
        uri="/",
        path="/",
        scheme="http",
        proxy_protocol_info=None,
        _expected_100_continue=False,
    )


def response(sock: Socket, **asked: Any) -> Response:
    return Response(request(**asked), sock, Config())


def test_a_stream_s_head_goes_out_with_its_first_piece() -> None:
    sock = Socket()
    answer = response(sock)
    answer.start_response("200 OK", STREAM)
    answer.write(b"data: 1\n\n")
    answer.write(b"data: 2\n\n")
    answer.close()
    head, _, body = sock.sent.partition(b"\r\n\r\n")
    assert [len(sock.pieces), sock.pieces[1:]] == [3, [b"9\r\ndata: 2\n\n\r\n", b"0\r\n\r\n"]]
    assert body == b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
    lines = head.decode().split("\r\n")
    assert lines[:2] == ["HTTP/1.1 200 OK", "Server: gunicorn"]
    assert lines[3:] == [
        "Connection: keep-alive",
        "Transfer-Encoding: chunked",
        "Content-Type: text/event-stream",
    ]
    assert parsedate_to_datetime(lines[2].removeprefix("Date: ")).tzinfo is not None


def test_a_whole_body_goes_out_with_its_head() -> None:
    sock = Socket()
    answer = response(sock)
    answer.start_response("200 OK", [("Content-Length", "5")])
    answer.write(b"hello")
    answer.close()
    (piece,) = sock.pieces
    assert piece.endswith(b"Content-Length: 5\r\n\r\nhello")


def test_what_the_socket_does_not_take_at_once_is_sent_too() -> None:
    sock = Socket(room=7)
    answer = response(sock)
    answer.start_response("200 OK", STREAM)
    answer.write(b"data: 1\n\n")
    answer.close()
    assert sock.sent.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\n0\r\n\r\n")


def test_http_1_0_gets_no_chunks_and_a_connection_that_is_closed() -> None:
    sock = Socket()
    answer = response(sock, version=(1, 0))
    answer.start_response("200 OK", STREAM)
    for piece in (b"one", b"two"):
        answer.write(piece)
    answer.close()
    head, _, body = sock.sent.partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert b"Connection: close" in head
    assert b"chunked" not in head


@pytest.mark.parametrize(
    ("method", "status", "length", "body"),
    [
        ("HEAD", "200 OK", "5", b"hello"),
        ("POST", "204 No Content", "0", b""),
        ("POST", "499 Gone", "0", b""),
    ],
)
def test_what_has_no_body_gets_its_head_alone(
    method: str, status: str, length: str, body: bytes
) -> None:
    sock = Socket()
    answer = response(sock, method=method)
    answer.start_response(status, [("Content-Length", length)])
    if body:
        answer.write(body)
    answer.close()
    assert re.fullmatch(rb"HTTP/1.1 (?:[^\r]+\r\n)+\r\n", sock.sent)


def test_never_more_than_the_length_that_was_said() -> None:
    sock = Socket()
    answer = response(sock)
    answer.start_response("200 OK", [("Content-Length", "3")])
    answer.write(b"hello")
    answer.close()
    assert sock.sent.endswith(b"\r\n\r\nhel")


class Body:
    """Breaks after `pieces`; notes that it is closed."""

    def __init__(self, *pieces: bytes, error: BaseException | None = None) -> None:
        self.pieces = pieces
        self.error = error
        self.is_closed = False

    def __iter__(self) -> Any:
        yield from self.pieces
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.is_closed = True


class Application:
    def __init__(self, body: Body) -> None:
        self.body = body

    def __call__(self, _environ: Any, start: Any) -> Body:
        start("200 OK", STREAM)
        return self.body


def serve(body: Body, sock: Socket, *, alive: bool = True, **asked: Any) -> list[str]:
    """Let a worker serve `body`; return what it has logged."""
    logged: list[str] = []
    worker: Any = SimpleNamespace(
        cfg=Config(),
        alive=alive,
        wsgi=Application(body),
        log=SimpleNamespace(exception=logged.append),
    )
    name = ("127.0.0.1", 80)
    Worker.handle_request(worker, name, request(**asked), sock, ("127.0.0.1", 1))
    return logged


def test_a_connection_goes_on_after_an_answer() -> None:
    body, sock = Body(b"one"), Socket()
    assert serve(body, sock) == []
    assert body.is_closed
    assert sock.sent.endswith(b"3\r\none\r\n0\r\n\r\n")


@pytest.mark.parametrize("ending", [{"alive": False}, {"version": (1, 0)}])
def test_a_connection_ends_with_its_worker_and_where_the_client_wants_it(ending: Any) -> None:
    body, sock = Body(b"one"), Socket()
    with pytest.raises(StopIteration):
        serve(body, sock, **ending)
    assert body.is_closed
    assert b"Connection: close" in sock.sent


@pytest.mark.parametrize("error", [RuntimeError("broken"), SystemExit(0)])
def test_a_fault_amid_an_answer_cuts_the_connection(error: BaseException) -> None:
    body, sock = Body(b"one", error=error), Socket()
    with pytest.raises(StopIteration):
        serve(body, sock)
    assert body.is_closed
    assert sock.is_shut
    assert sock.is_closed
    assert b"0\r\n\r\n" not in sock.sent


def test_a_fault_before_an_answer_is_for_gunicorn_to_tell() -> None:
    body, sock = Body(error=RuntimeError("broken")), Socket()
    with pytest.raises(RuntimeError, match="broken"):
        serve(body, sock)
    assert body.is_closed
    assert sock.sent == b""


def test_a_client_that_has_left_is_no_fault() -> None:
    body, sock = Body(b"one", error=BrokenPipeError()), Socket()
    with pytest.raises(BrokenPipeError):
        serve(body, sock)
    assert body.is_closed
    assert not sock.is_shut
