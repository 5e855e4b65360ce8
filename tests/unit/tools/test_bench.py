"""What the benchmarks count and compare: reuse against a perfect cache, waiting, speeds."""

from __future__ import annotations

from collections import Counter

import pytest
from heartcode_benchmark.asking import Answer

from tools.bench.conversations import Arrivals, Reuse, Shape, Turn
from tools.bench.gateway import balanced
from tools.bench.queueing import Queueing, Stay, stays
from tools.bench_speculation import Turn as Spoken
from tools.bench_speculation import report as report_speculation
from tools.bench_warm import Heard, report_disturbance

SLOTS = {"rig1": 1, "rig2": 2}


def turn(number: int, turn: int, *, prompt: int, cached: int, tokens: int = 20) -> Turn:
    answer = Answer(
        first_token_s=float(turn), tokens=tokens, prompt_tokens=prompt, cached_tokens=cached
    )
    return Turn(
        number=number,
        turn=turn,
        request_id=f"{number}-{turn}",
        asked=float(turn),
        ended=turn + 0.5,
        answer=answer,
    )


def test_all_that_a_perfect_cache_has_is_the_last_prompt_and_its_answer() -> None:
    turns = [
        turn(0, 0, prompt=100, cached=7),  # a beginning that all conversations have in common
        turn(0, 1, prompt=180, cached=119),
        turn(0, 2, prompt=260, cached=199),
    ]
    reuse = Reuse.of(turns)
    assert (reuse.reusable, reuse.reused, reuse.share) == (119 + 199, 119 + 199, 1.0)
    assert reuse.first_token_s == 1.5


def test_what_is_lost_is_seen() -> None:
    turns = [turn(0, 0, prompt=100, cached=0), turn(0, 1, prompt=180, cached=0)]
    turns += [turn(1, 0, prompt=100, cached=0), turn(1, 1, prompt=180, cached=119)]
    assert Reuse.of(turns).share == 0.5


def test_more_than_possible_does_not_count() -> None:
    turns = [turn(0, 0, prompt=100, cached=0), turn(0, 1, prompt=180, cached=170)]
    assert Reuse.of(turns).share == 1.0


def test_every_turn_comes_once_and_in_its_order() -> None:
    shape = Shape(conversations=5, turns=3)
    order = shape.arrivals(1)
    assert Counter(order) == dict.fromkeys(range(5), 3)
    assert order != sorted(order)
    assert order == shape.arrivals(1)
    arrivals = Arrivals(order)
    seen: dict[int, list[int]] = {}
    while (taken := arrivals.take()) is not None:
        number, at = taken
        seen.setdefault(number, []).append(at)
        arrivals.give_back(number)
    assert seen == {number: [0, 1, 2] for number in range(5)}


def test_a_conversation_that_waits_for_its_answer_is_passed() -> None:
    arrivals = Arrivals([3, 3, 5])
    assert arrivals.take() == (3, 0)
    assert arrivals.take() == (5, 0)
    arrivals.give_back(3)
    assert arrivals.take() == (3, 1)


def test_a_later_turn_goes_on_where_the_last_one_ended() -> None:
    shape = Shape()
    first, second = shape.messages("m", 4, 0), shape.messages("m", 4, 1)
    assert second[: len(first)] == first
    assert second[len(first)]["content"].split() == [str(n) for n in range(1, 21)]
    assert shape.messages("m", 5, 0)[0] != first[0]


def stay(rig: str, arrived: float, began: float, ended: float) -> Stay:
    return Stay(rig=rig, arrived=arrived, began=began, ended=ended)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        # Both rigs are full.
        ([("rig1", 0, 9), ("rig2", 0, 9), ("rig2", 0, 9)], (1, 0, 0)),
        # The other rig has a free slot.
        ([("rig1", 0, 9), ("rig2", 0, 9)], (1, 1, 0)),
        # Its own has one.
        ([("rig2", 0, 9)], (1, 0, 1)),
        # A slot of the other rig has just become free, or is just about to be taken.
        ([("rig1", 0, 9), ("rig2", 0, 9), ("rig2", 0, 0.99)], (1, 0, 0)),
        ([("rig1", 0, 9), ("rig2", 0, 9), ("rig2", 1.01, 9)], (1, 0, 0)),
        # One of its own is just becoming free: it may have been so already.
        ([("rig1", 0, 1.01), ("rig2", 0, 9)], (1, 0, 1)),
    ],
)
def test_who_waits_beside_a_free_slot_is_counted(
    others: list[tuple[str, float, float]], expected: tuple[int, int, int]
) -> None:
    busy = [stay(rig, began, began, ended) for rig, began, ended in others]
    seen = Queueing.of([stay("rig1", 1, 9, 10), *busy], SLOTS)
    assert (seen.queued, seen.despite_free, seen.by_choice) == expected


def test_who_did_not_wait_is_not_counted() -> None:
    assert Queueing.of([stay("rig1", 1, 1.001, 10)], SLOTS).queued == 0


def test_a_turn_was_at_the_rig_that_has_logged_it() -> None:
    (found,) = stays([turn(0, 1, prompt=1, cached=0)], {"rig1": {}, "rig2": {"0-1": 0.25}})
    assert found == stay("rig2", 1.0, 1.25, 1.5)


def test_another_way_to_choose_replaces_both_stages() -> None:
    site = (
        "upstream a {\n    hash $heartcode_key consistent;\n}\nupstream b {\n    least_conn;\n}\n"
    )
    assert balanced(site, "") == "upstream a {\n    \n}\nupstream b {\n    \n}\n"
    assert balanced(site, "least_conn;").count("    least_conn;\n") == 2
    with pytest.raises(ValueError, match="no place"):
        balanced("server {}", "")


def heard(token_s: float, files: int = 0) -> Heard:
    return Heard(token_s=token_s, longest_s=10 * token_s, cpu_s=token_s, files=files)


def test_a_stream_beside_files_is_compared_with_the_one_of_its_round() -> None:
    """A machine that is twice as slow in one round is that for both."""
    told = report_disturbance(
        {
            "alone": [heard(0.009), heard(0.018), heard(0.009)],
            "off": [heard(0.010), heard(0.020), heard(0.010)],
            "on": [heard(0.010, 2), heard(0.021, 1), heard(0.0104)],
        }
    )
    assert told.splitlines()[-1].count("1.040 (1.000 to 1.050)") == 2
    assert "| the same, with files | 10.4 (10.0 to 21.0) | 104.0 (100.0 to 210.0) | " in told


def test_speculation_is_compared_turn_by_turn() -> None:
    def turn(seconds: float, proposed: int = 0, taken: int = 0) -> Spoken:
        return Spoken(temperature=0.8, tokens=100, seconds=seconds, proposed=proposed, taken=taken)

    told = report_speculation(
        {
            "none": [turn(2.0), turn(4.0), turn(2.0)],
            "ngram-mod": [turn(2.0), turn(5.0, 48, 12), turn(1.0, 48, 36)],
        }
    )
    assert "| none | 37.5 | 1.00 | 1.00 | 0.00 a token | - |" in told
    assert "| ngram-mod | 37.5 | 1.00 | 0.80 | 0.32 a token | 50% |" in told
