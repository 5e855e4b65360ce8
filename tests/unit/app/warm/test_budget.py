from __future__ import annotations

import pytest
from heartcode.routing.backend import Backend
from heartcode.routing.lease import Lease
from heartcode.warm import budget
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lease(clock: Clock) -> Lease:
    return Lease(Backend("http://127.0.0.1:1", clock=clock), clock=clock)


def test_where_nobody_waits_all_is_allowed() -> None:
    assert budget.allows([], 60.0)


@given(
    files=st.lists(st.floats(0.01, 5.0), max_size=30),
    pauses=st.lists(st.floats(0.0, 60.0), min_size=30, max_size=30),
)
def test_no_answer_is_held_up_for_more_than_its_share_whenever_it_ends(
    files: list[float], pauses: list[float]
) -> None:
    clock = Clock()
    answer, held_up = lease(clock), 0.0
    for seconds, pause in zip(files, pauses, strict=False):
        clock.now += pause
        if budget.allows([answer], seconds):
            began = clock.now
            clock.now += seconds
            budget.spend([answer], since=began)
            held_up += seconds
        assert held_up <= budget.SHARE * clock.now


def test_everybody_has_to_have_the_time(clock: Clock) -> None:
    old = lease(clock)
    clock.now = 100.0
    young = lease(clock)
    assert budget.allows([old], 3.9)
    assert not budget.allows([old, young], 0.1)
    clock.now = 110.0
    assert budget.allows([old, young], 0.3)
    budget.spend([old, young], since=clock.now - 0.3)
    assert not budget.allows([old, young], 0.3)
    assert budget.allows([old], 3.9)


def test_who_comes_while_a_file_is_written_is_held_up_for_the_rest(clock: Clock) -> None:
    clock.now = 1.5
    late = lease(clock)
    clock.now = 2.0
    budget.spend([late], since=0.0)
    assert late.held_up_s == 0.5
