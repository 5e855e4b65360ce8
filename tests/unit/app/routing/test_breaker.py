from __future__ import annotations

import pytest
from heartcode.routing.breaker import Breaker, State, Trial
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

FIRST_S, LONGEST_S = 1.0, 10.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(first_pause_s=FIRST_S, longest_pause_s=LONGEST_S, clock=clock)


def test_at_first_nothing_is_known_and_nothing_held_against_it(breaker: Breaker) -> None:
    assert breaker.state is State.CLOSED
    assert not breaker.known
    assert not breaker.is_proven
    assert breaker.begin_trial() is None


def test_a_failure_opens_and_an_answer_closes(breaker: Breaker) -> None:
    assert breaker.failed()
    assert (breaker.state, breaker.is_proven) == (State.OPEN, False)
    assert not breaker.failed()
    assert breaker.answered()
    assert (breaker.state, breaker.is_proven) == (State.CLOSED, True)
    assert not breaker.answered()


def test_the_pauses_double_up_to_the_longest_and_begin_anew(breaker: Breaker, clock: Clock) -> None:
    for pauses in ([1, 2, 4, 8, 10, 10], [1, 2]):
        breaker.failed()
        for pause in pauses:
            clock.now += pause - 0.1
            assert not breaker.trial_is_due
            clock.now += 0.1
            assert breaker.trial_is_due
            breaker.failed()
        breaker.answered()


def test_many_failures_at_once_are_one(breaker: Breaker, clock: Clock) -> None:
    for _ in range(20):
        breaker.failed()
    clock.now += FIRST_S
    assert breaker.trial_is_due
    for _ in range(20):
        breaker.failed()
    clock.now += 2 * FIRST_S
    assert breaker.trial_is_due


def test_one_trial_at_a_time(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.now += FIRST_S
    trial = breaker.begin_trial()
    assert trial is not None
    assert breaker.state is State.HALF_OPEN
    assert not breaker.trial_is_due
    assert breaker.begin_trial() is None
    breaker.end_trial(trial)  # its client has left
    assert breaker.trial_is_due


def test_a_trial_that_is_over_does_not_end_the_next(breaker: Breaker) -> None:
    breaker.failed()
    former = breaker.begin_trial()
    breaker.failed()
    assert breaker.begin_trial() is not None
    breaker.end_trial(former)
    assert breaker.state is State.HALF_OPEN


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order, told again in the plainest words."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(first_pause_s=FIRST_S, longest_pause_s=LONGEST_S, clock=self.clock)
        self.last: str | None = None
        self.trials: list[Trial] = []
        self.running: Trial | None = None

    @rule()
    def answer(self) -> None:
        assert self.breaker.answered() == (self.last != "answer")
        self.last, self.running = "answer", None

    @rule()
    def fail(self) -> None:
        assert self.breaker.failed() == (self.last != "failure")
        self.last, self.running = "failure", None
        assert 0 < self.breaker.due - self.clock.now <= LONGEST_S

    # Quarters add up exactly; other fractions would make a pause a hair too long.
    @rule(seconds=st.integers(0, 8 * int(LONGEST_S)).map(lambda quarters: quarters / 4))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def begin(self) -> None:
        may = self.last == "failure" and self.running is None
        trial = self.breaker.begin_trial()
        assert (trial is not None) == may
        if trial is not None:
            self.running = trial
            self.trials.append(trial)

    @precondition(lambda self: self.trials)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        trial = data.draw(st.sampled_from(self.trials))
        self.breaker.end_trial(trial)
        if trial is self.running:
            self.running = None

    @invariant()
    def it_says_what_was_seen_last(self) -> None:
        assert self.breaker.is_open == (self.last == "failure")
        assert self.breaker.known == (self.last is not None)
        assert self.breaker.is_proven == (self.last == "answer")
        half_open = self.last == "failure" and self.running is not None
        assert (self.breaker.state is State.HALF_OPEN) == half_open

    @invariant()
    def no_trial_is_far_away(self) -> None:
        if self.breaker.state is State.OPEN:
            assert self.breaker.due - self.clock.now <= LONGEST_S


TestAnyOrder = AnyOrder.TestCase
