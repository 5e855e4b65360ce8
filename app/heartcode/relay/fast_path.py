"""The fast path of a stream's tokens: from a backend's socket to the client's, in the event loop.

A greenlet that reads tokens is woken for each of them: it tries to read, waits, and is switched to
and fro. A callback in the loop costs a third of that (docs/adr/0011-the-hot-path.md). It writes to
the client's socket without a detour through the WSGI server:

    writer = ClientWriter(sock, chunked=True, stall_s=60)
    if not writer.write_now(event):     # in the event loop, for each token
        writer.flush(client)            # in the stream's greenlet: the client reads slowly

Only for a response whose head is out, and between two pieces that the server writes itself.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from select import POLLIN, poll
from typing import Any

from gevent import get_hub
from gevent.event import Event
from gevent.socket import wait_write

from heartcode.client import Client, ClientGoneError
from heartcode.upstream.chunked import framed
from heartcode.upstream.exchange import BackendError, Exchange, Reason

_READABLE = 1  # libev's EV_READ
# How often a slow client's request is looked after: it may have been given up meanwhile.
_LOOK_S = 1.0


class _Steps:
    """Calls `step` whenever `watcher` says so, until it returns False or raises."""

    def __init__(self, watcher: Any, step: Callable[[], bool]) -> None:
        self._watcher = watcher
        self._step = step
        self.error: Exception | None = None
        self.ended = Event()
        watcher.start(self._go_on)

    def _go_on(self) -> None:
        try:
            if self._step():
                return
        except Exception as error:  # noqa: BLE001 - raised again where somebody waits for it
            self.error = error
        self._watcher.stop()
        self.ended.set()


@dataclass(frozen=True, kw_only=True)
class Signs:
    """Signs of life to whoever waits, while a backend says nothing.

    Attributes:
        every_s: how long nothing may go out.
        give: sends one, without blocking; returns whether more can be written.
    """

    every_s: float
    give: Callable[[], bool]


def while_readable(
    exchange: Exchange, step: Callable[[], bool], *, signs: Signs | None = None
) -> None:
    """Call `step`, which must not block, whenever `exchange` can be read, until it returns False.

    Raises:
        BackendError: when the backend was silent for too long.
        Exception: what `step` raised.
    """
    watcher = get_hub().loop.io(exchange.fileno(), _READABLE)
    steps = _Steps(watcher, step)
    signed = time.monotonic()
    try:
        # One timer for each silence, not for each token.
        left = exchange.silence_s if signs is None else min(exchange.silence_s, signs.every_s)
        while not steps.ended.wait(left):
            now = time.monotonic()
            left = exchange.last_heard + exchange.silence_s - now
            if left <= 0:
                if not _has_something(exchange):
                    raise BackendError(Reason.SILENT)
                left = 0.0  # it was this program that stood still: what came meanwhile is read now
            if signs is not None:
                quiet_s = now - max(exchange.last_heard, signed)
                if quiet_s >= signs.every_s:
                    if not signs.give():
                        break
                    signed, quiet_s = now, 0.0
                left = min(left, signs.every_s - quiet_s)
    finally:
        watcher.stop()
        watcher.close()
    if steps.error is not None:
        raise steps.error


def _has_something(exchange: Exchange) -> bool:
    """Return whether something of the backend waits to be read."""
    waiting = poll()
    waiting.register(exchange.fileno(), POLLIN)
    return bool(waiting.poll(0))


class ClientWriter:
    """Writes the body of one response.

    Args:
        sock: the client's socket, non-blocking as all of gevent's are.
        chunked: whether the body goes out in chunks (HTTP/1.1) or as it is (HTTP/1.0).
        stall_s: seconds for which the client may take nothing before it counts as gone.
    """

    def __init__(self, sock: Any, *, chunked: bool, stall_s: float) -> None:
        self._socket = sock
        self._descriptor: int = sock.fileno()
        self.is_chunked = chunked
        self._stall_s = stall_s
        self._rest = b""

    def write_now(self, data: bytes) -> bool:
        """Write what the socket takes; return whether that is all, so that more can be written."""
        return self.write_as_it_is(framed(data) if self.is_chunked else data)

    def write_as_it_is(self, piece: bytes) -> bool:
        """Write a piece that is a chunk already, if it has to be one; see `write_now()`."""
        try:
            written = os.write(self._descriptor, piece)
        except OSError:
            written = 0  # the socket is full, or the client has left: flush() finds out which
        if written == len(piece):
            return True
        self._rest = piece[written:]
        return False

    def flush(self, client: Client) -> None:
        """Write what `write_now()` could not.

        Memory for a client that reads slowly stays at this one piece: until it is out, nothing is
        read from the backend.

        Raises:
            ClientGoneError: when the client has left, takes nothing, or was given up. Half an
                event is out then and nothing can follow it, so its connection is shut.
        """
        try:
            self._flush(client)
        except (OSError, ClientGoneError):
            client.has_left()
            with suppress(OSError):  # the client was quicker
                self._socket.shutdown(socket.SHUT_RDWR)
            raise ClientGoneError from None

    def _flush(self, client: Client) -> None:
        taken_last = time.monotonic()
        while self._rest:
            if client.gone or time.monotonic() - taken_last > self._stall_s:
                raise ClientGoneError
            try:
                written = os.write(self._descriptor, self._rest)
            except BlockingIOError:
                with suppress(TimeoutError):
                    wait_write(self._descriptor, timeout=_LOOK_S)
                continue
            self._rest = self._rest[written:]
            taken_last = time.monotonic()
