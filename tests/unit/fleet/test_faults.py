"""What the fault matrix says of what clients have got, and which faults it goes through."""

import pytest

from tests.counting import Count
from tests.fleet.faults import FAULTS, chosen


def counted(numbers: list[int], *, error: str = "", last: int = 5) -> Count:
    return Count(last=last, stream=True, status=200, numbers=numbers, error=error)


@pytest.mark.parametrize(
    ("made", "is_whole", "left_out", "doubled"),
    [
        (counted([1, 2, 3, 4, 5]), True, 0, 0),
        (counted([1, 2, 4, 5]), False, 1, 0),
        (counted([1, 2, 3]), False, 2, 0),
        (counted([1, 2, 2, 3, 4, 5]), False, 0, 1),
        (counted([1, 2, 3, 4, 5, 6]), False, 0, 1),
        (counted([2, 1, 3, 4, 5]), False, 0, 0),
        # What was cut lacks its end, and that is all that it lacks.
        (counted([1, 2, 3], error="cut"), False, 0, 0),
        (counted([1, 3], error="cut"), False, 1, 0),
        (counted([], error="refused"), False, 0, 0),
    ],
)
def test_a_number_that_is_lost_or_doubled_shows(
    made: Count, *, is_whole: bool, left_out: int, doubled: int
) -> None:
    assert (made.is_whole, made.left_out, made.doubled) == (is_whole, left_out, doubled)


def test_faults_are_chosen_by_their_names() -> None:
    first, second, *_ = FAULTS
    assert chosen("") == FAULTS
    assert chosen(f" {second.name}, {first.name},") == (second, first)
    with pytest.raises(ValueError, match=r"no flood; there are llama-killed-idle, "):
        chosen("flood")


def test_each_fault_has_a_name_of_its_own() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
