"""nginx's `hash ... consistent`, and the way that a request takes when rigs refuse it.

Source: ngx_http_upstream_hash_module.c of nginx 1.26. A server has 160 points for each of its
weight; the first of them is the CRC-32 of its host, a zero byte and its port, and each further one
is hashed from that and the one before. From the point of a key the ring is followed; after 20
points of servers that have been asked already, nginx goes on with its round robin.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from zlib import crc32

_POINTS = 160
_MOST_SKIPPED = 20


class Ring:
    """The servers of an upstream block, by their numbers."""

    def __init__(self, addresses: Sequence[str], *, weight: int) -> None:
        points: dict[int, int] = {}
        for number, address in enumerate(addresses):
            host, _, port = address.rpartition(":")
            base, before = crc32(f"{host}\0{port}".encode()), 0
            for _ in range(_POINTS * weight):
                before = crc32(before.to_bytes(4, "little"), base)
                points.setdefault(before, number)
        self._hashes = sorted(points)
        self._servers = [points[each] for each in self._hashes]
        self._number = len(addresses)
        self._turn = 0

    def way(self, key: str) -> Iterator[int]:
        """Yield the servers in the order in which nginx asks them, each once."""
        at = bisect_left(self._hashes, crc32(key.encode()))
        asked: set[int] = set()
        skipped = 0
        while skipped <= _MOST_SKIPPED and len(asked) < self._number:
            server = self._servers[at % len(self._servers)]
            if server in asked:
                at += 1
                skipped += 1
                continue
            asked.add(server)
            yield server
        turn = self._turn
        for server in [*range(turn, self._number), *range(turn)]:
            if server not in asked:
                self._turn = (server + 1) % self._number
                yield server
