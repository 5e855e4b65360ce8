from __future__ import annotations

from dataclasses import dataclass

from heartcode.policy import least_busy
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Load:
    in_flight: int = 0
    last_taken: int = 0
    avoided: bool = False


LOADS = st.builds(Load, st.integers(0, 9), st.integers(0, 99), st.booleans())


def test_no_candidate_no_choice() -> None:
    assert least_busy([]) is None


@given(st.lists(LOADS, min_size=1))
def test_no_other_candidate_would_have_been_better(loads: list[Load]) -> None:
    chosen = least_busy(loads)
    assert chosen is not None
    usable = [load for load in loads if not load.avoided] or loads
    assert chosen in usable
    fewest = [load for load in usable if load.in_flight == min(x.in_flight for x in usable)]
    assert chosen in fewest
    assert all(chosen.last_taken <= load.last_taken for load in fewest)
