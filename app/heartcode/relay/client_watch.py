"""What tells a `Client` that it has left, or that its time is over."""

from __future__ import annotations

import fcntl
import struct
import termios
from typing import Any

from gevent import get_hub

from heartcode.client import Client
from heartcode.errors import ApiError

_READABLE = 1  # libev's EV_READ


class Deadline:
    """Gives a `Client` up when its request has taken `limit_s` seconds in all."""

    def __init__(self, client: Client, limit_s: float) -> None:
        error = ApiError(504, f"the request took more than {limit_s:g} s", code="request_timeout")
        # As in SocketWatch, cheaper than a greenlet.
        self._timer = get_hub().loop.timer(limit_s)
        self._timer.start(client.give_up, error)

    def __enter__(self) -> Deadline:
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.stop()
        self._timer.close()


class SocketWatch:
    """Tells a `Client` when the other end of its connection closes.

    To be started when the request's body has been read. What becomes readable from then on is the
    end of the connection or, with pipelining, the next request: then the client is taken to stay,
    and its leaving shows only when the answer is written.

    A client that closes its sending half alone counts as gone, as it does for nginx.
    """

    def __init__(self, client: Client, sock: Any) -> None:
        self._client = client
        self._descriptor: int = sock.fileno()
        # A callback in the event loop costs far less than a greenlet for each request would.
        self._watcher = get_hub().loop.io(self._descriptor, _READABLE)
        self._watcher.start(self._on_readable)

    def _on_readable(self) -> None:
        self._watcher.stop()
        if _unread_bytes(self._descriptor) == 0:
            self._client.has_left()

    def close(self) -> None:
        """Stop watching; the descriptor may be another connection's soon."""
        self._watcher.stop()
        self._watcher.close()

    def __enter__(self) -> SocketWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _unread_bytes(descriptor: int) -> int:
    """Return how much can be read at once; readable without bytes means that it is closed."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    unread: int = struct.unpack("i", answer)[0]
    return unread
