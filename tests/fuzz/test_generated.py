from __future__ import annotations

from collections import Counter

import pytest

from tests.fuzz.generated import Ending, generated


def test_a_seed_and_a_number_make_the_same_request_again() -> None:
    made = [generated(7, number, "key") for number in range(50)]
    assert made == [generated(7, number, "key") for number in range(50)]
    assert made != [generated(8, number, "key") for number in range(50)]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_kind_comes_among_those_that_are_always_sent(seed: int) -> None:
    kinds = Counter(generated(seed, number, "key").kind for number in range(250))
    assert len(kinds) == 11
    assert min(kinds.values()) >= 2


def test_what_waits_for_an_answer_has_come_to_its_end() -> None:
    for number in range(300):
        case = generated(1, number, "key")
        data = b"".join(case.pieces)
        assert case.size == len(data)
        if case.kind == "unfinished":
            assert case.ending is not Ending.READ
        if case.ending is Ending.READ and data.startswith(b"POST /v1/chat"):
            assert b"\r\n\r\n" in data
