"""Whether the client is still there while its request waits for a backend."""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any

from gevent import get_hub

_READABLE = 1  # libev's EV_READ


class ClientGoneError(Exception):
    """The client left before its answer was complete."""


class Client:
    """The client of one request, which may leave at any time.

    Attributes:
        gone: whether it has left.
    """

    def __init__(self) -> None:
        self.gone = False
        self._leave: Callable[[], None] | None = None

    def when_gone(self, action: Callable[[], None]) -> None:
        """Call `action`, which must not block, when the client leaves; replaces a former one."""
        self._leave = action
        if self.gone:
            action()

    def has_left(self) -> None:
        """Note that the client has left."""
        self.gone = True
        if self._leave is not None:
            self._leave()


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
