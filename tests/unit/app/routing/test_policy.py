from __future__ import annotations

from dataclasses import replace

import pytest
from heartcode.routing.policy import (
    POLICIES,
    Candidate,
    Policy,
    least_busy,
    loss_seconds,
    prompt_seconds,
    round_robin,
    time_to_first_token,
)
from heartcode.routing.prefix_cache import Match
from hypothesis import given
from hypothesis import strategies as st

SECONDS = st.floats(0, 1000)


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    in_flight, free = draw(st.integers(0, 9)), draw(st.booleans())
    return Candidate(
        backend=draw(st.integers(0, 11)),
        free=free,
        avoided=draw(st.booleans()),
        in_flight=in_flight,
        last_taken=draw(st.integers(0, 99)),
        wait_s=0.0 if free else draw(SECONDS),
        ahead_s=draw(SECONDS) if in_flight else 0.0,
        prompt_s=draw(SECONDS),
        loss_s=draw(SECONDS),
    )


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_no_candidate_no_choice(policy: Policy) -> None:
    assert policy([]) is None


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@given(st.lists(candidates(), min_size=1))
def test_what_failed_comes_after_all_others_and_comes(
    policy: Policy, given: list[Candidate]
) -> None:
    chosen = policy(given)
    assert chosen in given
    assert chosen is not None
    assert not chosen.avoided or all(candidate.avoided for candidate in given)


@given(st.lists(candidates(), min_size=1))
def test_no_other_candidate_is_much_cheaper(given: list[Candidate]) -> None:
    chosen = time_to_first_token(given)
    assert chosen is not None
    usable = [candidate for candidate in given if not candidate.avoided] or given
    best = min(c.wait_s + c.ahead_s + c.prompt_s + c.loss_s for c in usable)
    assert chosen.cost_s <= best * 1.1 + 0.05


@given(st.lists(candidates(), min_size=1))
def test_the_least_busy_is_least_busy(given: list[Candidate]) -> None:
    chosen = least_busy(given)
    assert chosen is not None
    usable = [candidate for candidate in given if not candidate.avoided] or given
    usable = [candidate for candidate in usable if candidate.free] or usable
    assert chosen.in_flight == min(candidate.in_flight for candidate in usable)
    equals = [candidate for candidate in usable if candidate.in_flight == chosen.in_flight]
    assert chosen.last_taken == min(candidate.last_taken for candidate in equals)


def test_a_cached_prefix_decides() -> None:
    cold, warm = Candidate(backend=0, prompt_s=10), Candidate(backend=1, prompt_s=0.1)
    assert time_to_first_token([cold, warm]) is warm


def test_a_short_wait_for_a_cached_prefix_is_worth_it_and_a_long_one_is_not() -> None:
    cold = Candidate(backend=0, prompt_s=10)
    warm = Candidate(backend=1, free=False, in_flight=1, wait_s=3, prompt_s=0.1)
    assert time_to_first_token([cold, warm]) is warm
    assert time_to_first_token([cold, replace(warm, wait_s=30)]) is cold


def test_a_prompt_that_is_being_evaluated_is_in_the_way() -> None:
    busy, idle = (
        Candidate(backend=0, in_flight=1, ahead_s=5, prompt_s=1),
        Candidate(backend=1, prompt_s=4),
    )
    assert time_to_first_token([busy, idle]) is idle


def test_a_faster_card_may_be_worth_its_cold_cache() -> None:
    match = Match(cached_chars=1000)
    slow = prompt_seconds(match, chars=10_000, tokens_per_char=0.25, speed=250)
    fast = prompt_seconds(Match(), chars=10_000, tokens_per_char=0.25, speed=500)
    assert (slow, fast) == (9.0, 5.0)


def test_a_young_conversation_is_worth_more_than_an_old_one() -> None:
    def loss(idle_s: float) -> float:
        match = Match(lost_chars=8000, lost_idle_s=idle_s)
        return loss_seconds(match, tokens_per_char=0.25, speed=200)

    assert loss(0) == 5.0
    assert loss(0) > loss(60) > loss(3600) > 0


def test_equals_take_turns() -> None:
    one, other = (
        Candidate(backend=0, last_taken=5, prompt_s=3),
        Candidate(backend=1, prompt_s=3.0001),
    )
    for policy in POLICIES.values():
        assert policy([one, other]) is other


def test_round_robin_looks_at_the_turn_alone() -> None:
    busy, idle = Candidate(backend=0, in_flight=3), Candidate(backend=1, last_taken=1)
    assert round_robin([busy, idle]) is busy
    assert round_robin([replace(busy, free=False), idle]) is idle
