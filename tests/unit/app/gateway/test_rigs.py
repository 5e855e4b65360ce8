"""Which rig goes on with a stream, and in which order they are asked."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from heartcode.errors import ApiError
from heartcode.gateway.rigs import RigBudget, RigLease, Rigs
from heartcode.routing.request_info import Overflow
from heartcode.settings import Settings
from heartcode.upstream.exchange import BackendError, Reason

NOTHING: dict[str, str] = {}


def rigs(number: int = 3, variables: Mapping[str, str] = NOTHING) -> Rigs:
    names = range(1, number + 1)
    return Rigs(
        Settings.from_env(
            {
                "HEARTCODE_BACKENDS": ",".join(f"http://rig{n}:8080" for n in names),
                "HEARTCODE_RIG_ADDRESSES": ",".join(f"127.1.0.{n}" for n in names),
                **variables,
            }
        )
    )


def asked(budget: RigBudget) -> tuple[str, Overflow | None]:
    lease = budget.next_lease()
    lease.release()
    return lease.backend.name, lease.overflow


def fail(budget: RigBudget, reason: Reason) -> None:
    budget.has_failed(BackendError(reason))


def started(all_rigs: Rigs, *, model: str = "") -> RigBudget:
    """A stream that its first rig has begun."""
    budget = all_rigs.budget(all_rigs.all[0], model=model)
    assert asked(budget) == ("rig1:8080", None)
    budget.works()
    return budget


def test_a_rig_has_the_address_of_its_place_in_the_list() -> None:
    known = rigs()
    assert [known.at(f"127.1.0.{n}") for n in (1, 2, 3, 4)] == [*known.all, None]


def test_who_works_and_has_the_fewest_requests_goes_on() -> None:
    known = rigs(4)
    budget = started(known)
    busy = RigLease(known.all[1])
    known.all[2].has_failed("broken")
    fail(budget, Reason.SILENT)
    order = ["rig4:8080", "rig2:8080", "rig3:8080"]
    for name in order:
        assert asked(budget) == (name, Overflow.WHEN_BUSY)
        fail(budget, Reason.BUSY)
    busy.release()


def test_a_rig_without_a_free_slot_is_waited_for_before_the_lost_one() -> None:
    budget = started(rigs())
    fail(budget, Reason.BROKEN)
    for name in ("rig2:8080", "rig3:8080"):
        assert asked(budget) == (name, Overflow.WHEN_BUSY)
        fail(budget, Reason.BUSY)
    assert asked(budget) == ("rig2:8080", Overflow.NEVER)
    fail(budget, Reason.ERROR)
    assert asked(budget) == ("rig1:8080", Overflow.NEVER)
    fail(budget, Reason.UNREACHABLE)
    with pytest.raises(ApiError) as told:
        budget.next_lease()
    assert (told.value.status, told.value.code) == (502, "rig_failed")


def test_the_only_rig_goes_on_itself_when_its_proxy_is_back() -> None:
    budget = started(rigs(1))
    fail(budget, Reason.BROKEN)
    assert asked(budget) == ("rig1:8080", Overflow.NEVER)


def test_after_each_loss_all_others_are_asked_anew() -> None:
    budget = started(rigs(2))
    for name in ("rig2:8080", "rig1:8080", "rig2:8080"):
        fail(budget, Reason.STOPPED)
        assert asked(budget)[0] == name
        budget.works()


def test_a_request_that_is_lost_again_and_again_is_lost() -> None:
    budget = started(rigs(2, {"HEARTCODE_MAX_MOVES": "2"}))
    for _ in range(2):
        fail(budget, Reason.BROKEN)
        asked(budget)
        budget.works()
    fail(budget, Reason.BROKEN)
    with pytest.raises(ApiError):
        budget.next_lease()


def test_only_rigs_that_have_the_model_go_on() -> None:
    known = rigs(3, {"HEARTCODE_RIG_MODELS": "a|b,c,a"})
    budget = started(known, model="a")
    fail(budget, Reason.BROKEN)
    assert asked(budget)[0] == "rig3:8080"
    fail(budget, Reason.BROKEN)
    assert asked(budget)[0] == "rig1:8080"


@pytest.mark.parametrize(
    "variables",
    [
        {"HEARTCODE_RIG_ADDRESSES": "127.1.0.1"},
        {"HEARTCODE_RIG_ADDRESSES": "127.1.0.1,127.1.0.1,127.1.0.2"},
        {"HEARTCODE_RIG_ADDRESSES": "rig1,rig2,rig3"},
        {"HEARTCODE_RIG_MODELS": "a,b"},
        {"HEARTCODE_RIG_MODELS": "a,,b"},
    ],
)
def test_settings_that_do_not_fit_the_rigs_are_refused(variables: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="HEARTCODE_RIG_"):
        rigs(3, variables)
