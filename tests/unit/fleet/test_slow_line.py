"""The line that delays packets, with sockets in the place of links."""

import random
import socket
from collections.abc import Iterator

import pytest

from tests.fleet.slow_line import Line


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Where a line sends to, and what arrives there."""
    to, arrived = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with to, arrived:
        to.settimeout(0)
        arrived.settimeout(0)
        yield to, arrived


def arrived(sock: socket.socket) -> list[int]:
    found = []
    while True:
        try:
            found.append(int(sock.recv(100)))
        except BlockingIOError:
            return found


def line_of(clock: Clock, *, jitter_s: float = 0, loss: float = 0) -> Line:
    return Line(delay_s=1, jitter_s=jitter_s, loss=loss, chance=random.Random(1), clock=clock)


def test_a_packet_takes_its_time(ends: tuple[socket.socket, socket.socket]) -> None:
    clock = Clock()
    line = line_of(clock)
    assert line.deliver() is None
    line.take(ends[0], b"1")
    clock.now = 0.75
    assert line.deliver() == 0.25
    assert arrived(ends[1]) == []
    clock.now = 1.0
    assert line.deliver() is None
    assert arrived(ends[1]) == [1]


def test_packets_overtake_each_other(ends: tuple[socket.socket, socket.socket]) -> None:
    clock = Clock()
    line = line_of(clock, jitter_s=0.5)
    for number in range(20):
        line.take(ends[0], str(number).encode())
    clock.now = 0.49
    assert (line.deliver() or 0) > 0
    assert arrived(ends[1]) == []
    clock.now = 1.5
    assert line.deliver() is None
    got = arrived(ends[1])
    assert sorted(got) == list(range(20)) != got


def test_some_are_lost(ends: tuple[socket.socket, socket.socket]) -> None:
    clock = Clock()
    line = line_of(clock, loss=0.5)
    got = []
    for number in range(100):
        line.take(ends[0], str(number).encode())
        clock.now += 1
        line.deliver()
        got += arrived(ends[1])
    assert 30 < len(got) < 70
