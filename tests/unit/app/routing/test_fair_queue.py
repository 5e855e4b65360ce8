from __future__ import annotations

from collections import Counter

from heartcode.routing.fair_queue import FairQueue
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

CLIENTS = st.sampled_from(["anna", "ben", "cleo", ""])


def serve_all(queue: FairQueue[tuple[str, int]]) -> list[tuple[str, int]]:
    served = []
    while len(queue):
        item = next(iter(queue))
        queue.serve(item[0], item)
        served.append(item)
    return served


@given(st.lists(CLIENTS))
def test_everyone_is_served_in_turn(arrivals: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    items = [(client, number) for number, client in enumerate(arrivals)]
    for item in items:
        queue.add(item[0], item)
    due = list(queue)
    served = serve_all(queue)
    assert sorted(served) == sorted(due) == sorted(items)
    assert due == served
    for client in set(arrivals):
        assert [x for x in served if x[0] == client] == [x for x in items if x[0] == client]
    # Nobody gets a second turn more than another who waits.
    for length in range(len(served)):
        had, left = Counter(c for c, _ in served[:length]), {c for c, _ in served[length:]}
        assert all(had[waiting] >= max(had.values(), default=0) - 1 for waiting in left)


def test_twenty_requests_of_one_delay_another_by_one() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(20):
        queue.add("greedy", ("greedy", number))
    queue.add("modest", ("modest", 0))
    assert serve_all(queue).index(("modest", 0)) == 1


def test_a_request_that_had_a_backend_before_is_its_client_s_next() -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number in range(3):
        queue.add("anna", ("anna", number))
    queue.add("anna", ("anna", 99), first=True)
    assert [number for _, number in serve_all(queue)] == [99, 0, 1, 2]


class Comings(RuleBasedStateMachine):
    """Adding, leaving and serving in any order, against plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[tuple[str, int]] = FairQueue()
        self.lines: dict[str, list[tuple[str, int]]] = {}
        self.serial = 0

    @rule(client=CLIENTS)
    def arrive(self, client: str) -> None:
        self.serial += 1
        self.queue.add(client, (client, self.serial))
        self.lines.setdefault(client, []).append((client, self.serial))

    @precondition(lambda self: self.lines)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from([x for line in self.lines.values() for x in line]))
        assert self.queue.remove(item[0], item)
        assert not self.queue.remove(item[0], item)
        self.forget(item)

    @precondition(lambda self: self.lines)
    @rule()
    def serve(self) -> None:
        item = next(iter(self.queue))
        assert item == self.lines[item[0]][0]
        assert item[0] == next(iter(self.lines))
        self.queue.serve(item[0], item)
        self.forget(item)
        if item[0] in self.lines:
            self.lines[item[0]] = self.lines.pop(item[0])

    def forget(self, item: tuple[str, int]) -> None:
        self.lines[item[0]].remove(item)
        if not self.lines[item[0]]:
            del self.lines[item[0]]

    @invariant()
    def nobody_is_lost(self) -> None:
        assert len(self.queue) == sum(map(len, self.lines.values()))
        assert sorted(self.queue) == sorted(x for line in self.lines.values() for x in line)


TestComings = Comings.TestCase
