"""A line that delays, reorders and loses packets, between two network links of this machine.

    python tests/fleet/slow_line.py LINK LINK --delay-ms 100 --jitter-ms 50 --loss-percent 1

What netem does, which many kernels come without. Both links have to lead nowhere else. Says "ready"
when packets go through, and goes on until a signal ends it.
"""

from __future__ import annotations

import argparse
import heapq
import random
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

_ETH_P_ALL = 3
_SOL_PACKET = 263
# What this program sends is not to come back to it.
_IGNORE_OUTGOING = 23
# Packets carry along what of their checksums and of their cutting is left to the network card: both
# ends of a line that is none take it to be done there (linux/if_packet.h).
_VNET_HDR = 15
# Of a packet that is still to be cut, with its header.
_MOST_BYTES = 128 * 1024


@dataclass(order=True, frozen=True)
class _Packet:
    due: float
    to: socket.socket = field(compare=False)
    data: bytes = field(compare=False)


class Line:
    """What is on its way.

    Args:
        delay_s: How long a packet takes.
        jitter_s: How much more or less that may be; one may overtake another.
        loss: The share of packets that do not arrive.
        chance: Decides both.
        clock: Seconds.
    """

    def __init__(
        self,
        *,
        delay_s: float,
        jitter_s: float,
        loss: float,
        chance: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._loss = loss
        self._chance = chance
        self._clock = clock
        self._on_the_way: list[_Packet] = []

    def take(self, to: socket.socket, data: bytes) -> None:
        """Let a packet begin its way, or lose it."""
        if self._chance.random() < self._loss:
            return
        takes_s = self._delay_s + self._chance.uniform(-self._jitter_s, self._jitter_s)
        heapq.heappush(self._on_the_way, _Packet(self._clock() + takes_s, to, data))

    def deliver(self) -> float | None:
        """Send what has arrived; return the seconds until the next one does, None without one."""
        while self._on_the_way:
            left_s = self._on_the_way[0].due - self._clock()
            if left_s > 0:
                return left_s
            packet = heapq.heappop(self._on_the_way)
            with suppress(BlockingIOError):  # a full queue loses packets, as any does
                packet.to.send(packet.data)
        return None


def _opened(link: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    sock.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024 * 1024)
    sock.bind((link, 0))
    sock.settimeout(0)
    return sock


def main() -> None:
    """Carry packets from each of two links to the other one."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("links", nargs=2)
    parser.add_argument("--delay-ms", type=float, default=0)
    parser.add_argument("--jitter-ms", type=float, default=0)
    parser.add_argument("--loss-percent", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    line = Line(
        delay_s=told.delay_ms / 1000,
        jitter_s=told.jitter_ms / 1000,
        loss=told.loss_percent / 100,
        chance=random.Random(told.seed),
    )
    one, other = map(_opened, told.links)
    with one, other, selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select(line.deliver()):
                assert isinstance(key.fileobj, socket.socket)
                line.take(key.data, key.fileobj.recv(_MOST_BYTES))


if __name__ == "__main__":
    main()
