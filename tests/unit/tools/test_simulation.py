from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict

import pytest

from tools.simulation.fleet import Fleet, Plan
from tools.simulation.ring import Ring
from tools.simulation.traffic import CHARS_PER_TOKEN, CONTEXT, Conversation, share_of_peak
from tools.simulation.virtual_time import Clock, Event


def test_time_passes_in_the_order_in_which_things_are_due() -> None:
    clock, seen = Clock(), []

    def sleeper(name: str, seconds: float) -> None:
        clock.sleep(seconds)
        seen.append((name, clock.now))

    clock.spawn(sleeper, "late", 20.0)
    clock.spawn(sleeper, "early", 10.0)
    clock.spawn(sleeper, "never", 40.0)
    clock.run(until=30.0)
    assert seen == [("early", 10.0), ("late", 20.0)]
    assert clock() == 30.0


@pytest.mark.parametrize(("set_at", "woken_at"), [(5.0, 5.0), (50.0, 9.0)])
def test_an_event_ends_a_wait_once(set_at: float, woken_at: float) -> None:
    clock = Clock()
    event, seen = Event(clock), []

    def waiter() -> None:
        seen.append((event.wait(9.0), clock.now))

    clock.spawn(waiter)
    clock.at(set_at, event.set)
    clock.run(until=100.0)
    assert seen == [(set_at < 9.0, woken_at)]
    assert event.is_set()


def test_an_event_that_has_happened_is_not_waited_for() -> None:
    clock = Clock()
    event = Event(clock)
    event.set()
    assert event.wait(9.0)
    assert clock.now == 0.0


def addresses(number: int) -> list[str]:
    return [f"10.0.0.{n}:8080" for n in range(number)]


def test_each_rig_is_asked_once_however_many_there_are() -> None:
    for number in (1, 2, 50):
        assert sorted(Ring(addresses(number), weight=1).way("a")) == list(range(number))


def test_a_rig_more_takes_its_share_from_all_and_moves_nothing_else() -> None:
    before, after = (Ring(addresses(number), weight=4) for number in (9, 10))
    keys = [f"key {n}" for n in range(2000)]
    moved = Counter(
        (next(before.way(key)), next(after.way(key)))
        for key in keys
        if next(before.way(key)) != next(after.way(key))
    )
    assert {new for _, new in moved} == {9}
    assert {old for old, _ in moved} == set(range(9))
    assert 120 < moved.total() < 280


def test_a_conversation_keeps_its_card_and_forgets_its_oldest_turns() -> None:
    rng = random.Random(1)
    conversation = Conversation.begun(rng, 1)
    card = conversation.said[0]
    for _ in range(60):
        asked = conversation.ask(rng)
        conversation.answer(300)
        assert asked["messages"][0] == {"role": "system", "content": card}  # type: ignore[index]
        assert sum(map(len, conversation.said)) <= CONTEXT * CHARS_PER_TOKEN


def test_the_evening_is_the_peak() -> None:
    assert share_of_peak(21) == 1.0
    assert share_of_peak(9) == pytest.approx(0.2)


def small(**fields: float) -> Plan:
    return Plan(**{"rigs": 3, "cards": 2, "hours": 0.25, "load": 0.4, "seed": 7, **fields})  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_day() -> None:
    one, other = Fleet(small()).run(), Fleet(small()).run()
    assert asdict(one) == asdict(other)
    assert one.requests > 30
    assert asdict(Fleet(small(seed=8)).run()) != asdict(one)


def test_a_conversation_that_has_the_fleet_for_itself_finds_all_of_its_last_turn() -> None:
    figures = Fleet(small(load=0.02, hours=2.0, failing=0)).run()
    assert figures.refused == figures.moved == 0
    assert set(figures.tries) == {1}
    assert figures.at_home == figures.later_turns > 0
    assert figures.reuse > 0.95
    assert max(figures.queued_s) == 0


def test_what_a_card_was_working_on_when_it_failed_is_served_by_another() -> None:
    figures = Fleet(small(load=0.2, failing=0.3)).run()
    assert figures.moved > 0
    assert figures.refused == 0


@pytest.mark.ci
def test_an_overloaded_fleet_asks_all_rigs_and_lets_requests_wait() -> None:
    all_asked = Fleet(small(load=3.0)).run()
    assert max(all_asked.tries) > 3
    assert all_asked.late()[0] > 0.1
    two_asked = Fleet(small(load=3.0, max_tries=1)).run()
    assert max(two_asked.tries) <= 1 + 3
