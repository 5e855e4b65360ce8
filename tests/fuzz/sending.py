"""A request on a raw socket, and what comes back."""

from __future__ import annotations

import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from httptools import HttpParserError, HttpResponseParser

from tests.fuzz.generated import Case, Ending

#: Nothing that is whole waits for as long as this, on however busy a machine.
PATIENCE_S = 15.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back: nothing, an answer, or what is none.

    Attributes:
        status: of the first answer; 0 without one.
        is_complete: whether it has come to its end.
        hung: whether nothing came, and the connection stayed.
        said: what came first.
        code: of an error.
        size: how many bytes came.
    """

    status: int = 0
    is_complete: bool = False
    hung: bool = False
    said: bytes = b""
    code: str = ""
    size: int = 0


def _code(body: bytes) -> str:
    """Return the code of the error that a body tells, in either shape; "" where it tells none."""
    try:
        error: dict[str, Any] = json.loads(body)["error"]
        told = error.get("code") or error.get("details", {}).get("error_code")
        # llama-server's own have a number there, which is the status.
        return str(told if isinstance(told, str) else error["type"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return ""


class _Reader:
    """Finds the end of the first answer."""

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.body = bytearray()
        self.status = 0
        self.is_complete = False

    def on_body(self, data: bytes) -> None:
        if not self.is_complete:  # else it is the answer to what was sent behind the request
            self.body += data

    def on_headers_complete(self) -> None:
        self.status = self.status or self.parser.get_status_code()

    def on_message_complete(self) -> None:
        self.is_complete = True


def sent(case: Case, address: tuple[str, int]) -> Answer:
    """Send a request and return the answer."""
    with socket.create_connection(address, timeout=PATIENCE_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in case.pieces:
                sock.sendall(piece)
            if case.ending is Ending.HALF_CLOSE:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was answered, and closed, before it had come to its end
        if case.ending is Ending.LEAVE:
            if case.number % 2:  # with a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return Answer()
        return _read(sock, case)


def _read(sock: socket.socket, case: Case) -> Answer:
    said, reader = b"", _Reader()
    hung = False
    while not reader.is_complete and not (case.has_no_body and reader.status > 0):
        try:
            data = sock.recv(65536)
        except TimeoutError:
            hung = True
            break
        except OSError:  # reset: what was not read of the request is lost with the answer
            break
        if not data:
            break
        said += data
        try:
            reader.parser.feed_data(_without_continue(said, data))
        except HttpParserError:  # an answer without a head, or pipelined ones
            if reader.is_complete or not said.startswith(b"HTTP/1."):
                continue
            break
    return Answer(
        status=reader.status,
        code=_code(bytes(reader.body)),
        size=len(said),
        is_complete=reader.is_complete or (case.has_no_body and reader.status > 0),
        hung=hung,
        said=said[:400],
    )


def _without_continue(said: bytes, data: bytes) -> bytes:
    return data.removeprefix(_CONTINUE) if said.startswith(_CONTINUE) else data
