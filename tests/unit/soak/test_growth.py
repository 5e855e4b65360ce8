from __future__ import annotations

import math
import random

from tests.soak.growth import Bound, Growth, report


def growth(values: list[float], *, per_1000: float = 1.0, at_rest: float | None = 0) -> Growth:
    bound = Bound(name="things", per_1000=per_1000, at_rest=at_rest)
    return Growth(bound=bound, requests=[100 * n for n in range(len(values))], values=values)


def test_what_grows_by_one_with_each_hundred_requests_is_seen() -> None:
    slope, error = growth([float(n) for n in range(40)]).slope()
    assert math.isclose(slope, 10.0)
    assert math.isclose(error, 0.0, abs_tol=1e-6)
    assert "grows by 10.00" in growth([float(n) for n in range(40)]).fault()


def test_the_warm_up_does_not_count() -> None:
    assert not growth([0.0, *map(float, range(10)), *[10.0] * 60, 0.0]).fault()


def test_what_scatters_does_not_grow() -> None:
    rng = random.Random(1)
    scattered = growth([5.0, *(rng.gauss(5, 2) for _ in range(100)), 5.0])
    assert scattered.slope()[1] > 0.05
    assert not scattered.fault()


def test_what_is_left_at_rest_is_a_fault() -> None:
    assert "1 more at the end" in growth([5.0, *[7.0] * 40, 6.0]).fault()
    assert not growth([5.0, *[7.0] * 40, 6.0], at_rest=None).fault()


def test_too_few_samples_say_nothing_and_are_a_fault() -> None:
    assert "too few samples" in growth([5.0, 5.0, 5.0]).fault()


def test_the_table_has_a_line_for_each() -> None:
    lines = report([growth([1000.0] * 40)]).splitlines()
    assert lines[2] == "| things | 1,000 | 1,000 | 1,000 | 1,000 | +0.00 ± 0.00 | 1 |"
