from __future__ import annotations

from heartcode.warm.budget import SHARE, Budget


def test_over_a_long_time_no_more_than_the_share_is_spent() -> None:
    now = 0.0
    budget = Budget(clock=lambda: now)
    spent = 0.0
    for _ in range(10_000):
        now += 1.0
        if budget.allows(0.7):
            budget.spend(0.9)  # it takes longer than was expected, each time
            spent += 0.9
    assert 0.9 * SHARE < spent / now < 1.05 * SHARE


def test_what_takes_longer_than_is_ever_saved_up_is_paid_off_afterwards() -> None:
    now = 0.0
    budget = Budget(clock=lambda: now)
    assert budget.allows(60.0)
    budget.spend(60.0)
    now = 0.9 * 60.0 / SHARE
    assert not budget.allows(0.1)
    now = 1.1 * 60.0 / SHARE
    assert budget.allows(0.1)
