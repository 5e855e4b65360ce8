"""What the planner chooses, and what it never does."""

from dataclasses import replace

import pytest
from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import MINING_CARDS, PASCAL, Card, make_card
from heartcode_models.planner.choose import LARGEST_CTX, MOST_SLOTS, BackendPlan, Refusal, plan_card
from heartcode_models.planner.find_models import find_models
from heartcode_models.planner.known_models import LAST_RESORTS, QUANTISATIONS, known_model
from heartcode_models.planner.settings import HandSet
from heartcode_models.planner.vram import usable, vram_need
from heartcode_models.units import MIB
from hypothesis import given
from hypothesis import strategies as st

MODELS = find_models("8B")
NOTHING = HandSet()
vram_sizes = st.integers(min_value=1024, max_value=24 * 1024).map(
    lambda mib: Card(name="card", vram=mib * MIB)
)
hand_values = st.builds(
    HandSet,
    n_ctx=st.none() | st.integers(256, 32768),
    slots=st.none() | st.integers(1, 8),
    kv_type=st.none() | st.sampled_from(["f16", "q8_0", "q4_0"]),
    n_ubatch=st.none() | st.integers(16, 512),
    n_gpu_layers=st.none() | st.integers(0, 33),
)


def known(name: str) -> Card:
    card = make_card(name)
    assert card
    return card


def planned(card: Card, hand: HandSet = NOTHING) -> BackendPlan:
    plan = plan_card(card, MODELS, hand)
    assert isinstance(plan, BackendPlan)
    return plan


def refused(card: Card, hand: HandSet = NOTHING) -> Refusal:
    plan = plan_card(card, MODELS, hand)
    assert isinstance(plan, Refusal)
    return plan


@pytest.mark.parametrize(
    ("name", "quantisation", "slots", "n_ctx"),
    [("P106-100", "Q4_K_M", 2, 9216), ("P104-100", "Q6_K", 3, 8192)],
)
def test_the_two_mining_cards(name: str, quantisation: str, slots: int, n_ctx: int) -> None:
    plan = planned(known(name))
    assert plan.model.quantisation == quantisation
    assert (plan.settings.slots, plan.settings.n_ctx) == (slots, n_ctx)
    assert (plan.settings.kv_type, plan.settings.n_gpu_layers) == ("q8_0", 33)


def test_a_card_that_is_short_of_vram_gets_a_smaller_ubatch_before_it_is_refused() -> None:
    plan = planned(Card(name="card", vram=4940 * MIB, generation=PASCAL))
    assert plan.model.quantisation == "Q4_K_M"
    assert plan.settings.n_ubatch < 512
    assert plan.settings.n_ctx >= 4096


def test_a_4_gb_card_and_an_8b_are_refused_with_what_would_fit() -> None:
    card = make_card("P104-100", gigabytes=4)
    assert card
    refusal = refused(card)
    assert "MiB more than" in refusal.reason
    text = "; ".join(refusal.would_fit)
    assert "Q2_K" in text
    assert "Llama-3.2-3B" in text
    assert "P102-100" in text


def test_what_a_refusal_names_does_fit() -> None:
    card = make_card("card", gigabytes=4)
    assert card
    named = next(text for text in refused(card).would_fit if "Q2_K" in text)
    smaller = known_model("8B", next(q for q in LAST_RESORTS if q in named))
    assert isinstance(plan_card(card, [smaller], NOTHING), BackendPlan)


def test_too_much_by_hand_says_by_how_much_and_what_would_fit() -> None:
    card = known("P106-100")
    refusal = refused(card, HandSet(n_ctx=16384, slots=2))
    assert "n_ctx 16384, slots 2" in refusal.reason
    fitting = {
        name: int(value)
        for name, value in (
            t.split()[:2] for t in refusal.would_fit if t.startswith(("n_ctx", "s"))
        )
        if name in ("n_ctx", "slots")
    }
    assert set(fitting) == {"n_ctx", "slots"}
    assert planned(card, HandSet(n_ctx=fitting["n_ctx"], slots=2))
    assert planned(card, HandSet(n_ctx=16384, slots=fitting["slots"]))


def test_what_the_refusal_lacks_is_what_is_missing() -> None:
    card = known("P106-100")
    hand = HandSet(n_ctx=16384, slots=2)
    lacking = int(refused(card, hand).reason.split(" MiB more than")[0].split()[-1])
    # One percent is never planned for.
    more = lacking * 101 // 99 + 2
    assert planned(replace(card, vram=card.vram + more * MIB), hand)
    assert refused(replace(card, vram=card.vram + (lacking - 2) * MIB), hand)


def test_a_file_that_is_given_is_not_replaced_by_another() -> None:
    plan = plan_card(known("P104-100"), find_models("8B Q4_K_M"), NOTHING)
    assert isinstance(plan, BackendPlan)
    assert plan.model.quantisation == "Q4_K_M"
    assert plan.settings.slots == MOST_SLOTS


def test_a_ubatch_above_the_batch_is_a_contradiction() -> None:
    with pytest.raises(ModelError, match="n_ubatch 1024 is more than n_batch 512"):
        plan_card(known("P106-100"), MODELS, HandSet(n_batch=512, n_ubatch=1024))


def test_a_context_beyond_the_model_s_is_refused() -> None:
    with pytest.raises(ModelError, match="131072"):
        plan_card(known("GTX 1080 Ti"), MODELS, HandSet(n_ctx=131073))


def test_a_context_that_pascal_may_not_survive_is_said() -> None:
    plan = planned(known("GTX 1080 Ti"), HandSet(n_ctx=32768, slots=1))
    assert "22032" in plan.why["n_ctx"]


@given(card=vram_sizes, hand=hand_values)
def test_a_plan_fits_its_own_budget_and_respects_what_is_set(card: Card, hand: HandSet) -> None:
    plan = plan_card(card, MODELS, hand)
    if isinstance(plan, Refusal):
        assert plan.reason
        return
    assert plan.need == vram_need(plan.model, plan.settings)
    assert plan.need.total <= usable(card.vram)
    for name in ("n_ctx", "slots", "kv_type", "n_ubatch", "n_gpu_layers"):
        if getattr(hand, name) is not None:
            assert getattr(plan.settings, name) == getattr(hand, name)
            assert plan.why[name].startswith("set by hand")
    if hand.n_ctx is None:
        assert plan.settings.n_ctx <= LARGEST_CTX
    if hand.slots is None:
        assert plan.settings.slots <= MOST_SLOTS


@given(card=vram_sizes, more=st.integers(0, 4096))
def test_more_vram_never_gives_less(card: Card, more: int) -> None:
    smaller = plan_card(card, MODELS, NOTHING)
    larger = plan_card(replace(card, vram=card.vram + more * MIB), MODELS, NOTHING)
    assert worth(larger) >= worth(smaller)


def worth(plan: BackendPlan | Refusal) -> tuple[int, ...]:
    """In the order of what is wanted first; a refusal is worth less than any plan."""
    if isinstance(plan, Refusal):
        return ()
    settings = plan.settings
    return (
        -QUANTISATIONS.index(plan.model.quantisation),
        settings.n_ubatch,
        min(settings.n_ctx, 8192),
        settings.slots,
        settings.n_ctx,
    )


@given(card=vram_sizes, less=st.integers(256, 8192))
def test_a_smaller_context_by_hand_fits_where_a_larger_one_does(card: Card, less: int) -> None:
    larger = plan_card(card, MODELS, HandSet(n_ctx=8192))
    smaller = plan_card(card, MODELS, HandSet(n_ctx=less))
    assert isinstance(larger, Refusal) or isinstance(smaller, BackendPlan)


@pytest.mark.parametrize("name", MINING_CARDS)
def test_every_choice_has_a_reason(name: str) -> None:
    plan = plan_card(known(name), find_models("3B"), NOTHING)
    assert isinstance(plan, BackendPlan)
    choices = {"quantisation", "n_ctx", "slots", "kv_type", "n_batch", "n_ubatch", "n_gpu_layers"}
    assert set(plan.why) == choices
    assert all(plan.why.values())
