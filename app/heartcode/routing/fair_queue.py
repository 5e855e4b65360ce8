"""A queue that is fair between clients: they take turns, and each is served in its own order.

A client that brings twenty requests delays another client's one by a single request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT")


class FairQueue(Generic[ItemT]):
    """Items in lines, one line for each client that waits; an item is in the queue once.

    Iterating yields the items in the order in which they are due and may stop at any point; the
    queue must not be changed meanwhile.
    """

    def __init__(self) -> None:
        # The lines in the order of their turns. In a line the values mean nothing: a dictionary
        # keeps the order and forgets an item from the middle at once.
        self._lines: OrderedDict[str, dict[ItemT, None]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, client: str, item: ItemT, *, first: bool = False) -> None:
        """Put an item at the end of its client's line, or before all others of the client."""
        line = self._lines.setdefault(client, {})
        if first:
            others = dict(line)
            line.clear()
            line[item] = None
            line.update(others)
        else:
            line[item] = None
        self._length += 1

    def remove(self, client: str, item: ItemT) -> bool:
        """Take an item out that will not be served; return False if it is not there."""
        line = self._lines.get(client, {})
        if item not in line:
            return False
        del line[item]
        if not line:
            del self._lines[client]
        self._length -= 1
        return True

    def serve(self, client: str, item: ItemT) -> None:
        """Take an item out whose turn this is: its client's next turn comes after all others'."""
        if self.remove(client, item) and client in self._lines:
            self._lines.move_to_end(client)

    def __iter__(self) -> Iterator[ItemT]:
        lines = [iter(line) for line in self._lines.values()]
        while lines:
            left = []
            for line in lines:
                for item in line:
                    yield item
                    left.append(line)
                    break
            lines = left
