"""A model over the cards of a rig and those that other hosts lend it."""

from dataclasses import replace
from itertools import pairwise

import pytest
from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import CPU, GIGABIT, Card, Helper, Rig, make_card, nominal_ram
from heartcode_models.planner.choose import BackendPlan, plan_backend
from heartcode_models.planner.description import parse_rig
from heartcode_models.planner.host_ram import LlamaServer, lending_ram, process_ram
from heartcode_models.planner.known_models import known_model
from heartcode_models.planner.layer_split import assigned
from heartcode_models.planner.network import LATENCY, crossing_bytes, crossing_s, crossings
from heartcode_models.planner.over_rigs import devices, plan_over_rigs
from heartcode_models.planner.rig_plan import RigPlan
from heartcode_models.planner.settings import HandSet
from heartcode_models.planner.speed import tokens_per_second
from heartcode_models.units import MIB
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL, LARGE, LARGEST = (known_model(size, "Q4_K_M") for size in ("8B", "24B", "70B"))
NOTHING = HandSet()


def cards(count: int, name: str = "P106-100") -> tuple[Card, ...]:
    card = make_card(name)
    assert card
    return (card,) * count


def lent(name: str, count: int, kind: str = "P106-100", gigabytes: float = 8) -> Helper:
    own = tuple(replace(card, host=name) for card in cards(count, kind))
    return Helper(name=name, cards=own, ram=nominal_ram(gigabytes))


def rig(count: int, *helpers: Helper, gigabytes: float = 8) -> Rig:
    return Rig(
        name="rig1", cards=cards(count), ram=nominal_ram(gigabytes), cores=2, helpers=helpers
    )


def planned(helped: Rig, model: Model = LARGEST, hand: HandSet = NOTHING) -> BackendPlan:
    made = plan_over_rigs(helped, [model], hand)
    assert made.works, (made.refusals, made.problems)
    (server,) = made.servers
    return server.plan


# --- shares ------------------------------------------------------------------------------------


def test_a_70b_outgrows_six_cards_and_fits_twelve() -> None:
    alone = plan_over_rigs(rig(6), [LARGEST], NOTHING)
    (refusal,) = alone.refusals
    assert "MiB more than the" in refusal.reason
    plan = planned(rig(6, lent("rig2", 6)))
    assert [card.host for card in plan.cards] == ["rig2"] * 6 + [""] * 6
    assert assigned(plan.tensor_split, LARGEST.all_layers) == plan.tensor_split
    # What is left on the last card has the output, and that is the rig's own.
    assert LARGEST.n_layers in plan.shares[-1].layers


def test_a_lent_card_holds_what_one_of_the_rig_s_own_would() -> None:
    over, here = planned(rig(6, lent("rig2", 6))), planned(rig(12))
    assert [share.need for share in over.shares] == [share.need for share in here.shares]
    assert over.tensor_split == here.tensor_split


def test_where_the_cpu_computes_only_helpers_have_layers() -> None:
    computing = Card(name="CPU", vram=20_000 * MIB, generation=CPU)
    helper = Helper(name="rig2", cards=(replace(computing, host="rig2"),), ram=32_000 * MIB)
    helped = replace(rig(0, helper, gigabytes=32), cards=(computing,))
    assert devices(helped) == helper.cards
    plan = planned(helped, LARGE)
    assert plan.tensor_split == (LARGE.all_layers,)
    assert plan.settings.n_gpu_layers == LARGE.all_layers
    assert plan.why["n_gpu_layers"].startswith("all layers and the output")


@given(
    st.integers(1, 4),
    st.lists(st.integers(1, 3), min_size=1, max_size=2),
    st.sampled_from([SMALL, LARGE]),
)
@settings(max_examples=30)
def test_what_is_planned_is_held_and_one_more_card_holds_it_too(
    own: int, helpers: list[int], model: Model
) -> None:
    fewer = rig(own, *(lent(f"rig{n}", count) for n, count in enumerate(helpers, 2)), gigabytes=32)
    more = replace(fewer, helpers=(*fewer.helpers, lent("rig9", 1)))
    before, after = (plan_over_rigs(one, [model], NOTHING) for one in (fewer, more))
    for made in (before, after):
        for server in made.servers:
            assert all(share.room >= 0 for share in server.plan.shares)
            ends = [share.layers.stop for share in server.plan.shares]
            starts = [share.layers.start for share in server.plan.shares]
            assert (starts[0], ends[-1]) == (0, server.plan.model.all_layers)
            assert starts[1:] == ends[:-1]
    assert len(before.servers) <= len(after.servers)


@given(st.permutations(["rig2", "rig3", "rig4"]))
def test_helpers_are_taken_in_their_order_and_each_one_s_cards_stay_together(
    order: list[str],
) -> None:
    plan = planned(rig(2, *(lent(name, 2) for name in order)), LARGE)
    hosts = [card.host for card in plan.cards]
    assert hosts == [name for name in order for _ in range(2)] + ["", ""]
    assert sum(before != after for before, after in pairwise(hosts)) == 3


# --- the network -------------------------------------------------------------------------------


def test_hidden_states_cross_twice_for_each_helper_however_many_cards_it_has() -> None:
    one, two = planned(rig(6, lent("rig2", 6))), planned(rig(6, lent("rig2", 3), lent("rig3", 3)))
    assert crossings(one).hidden_states == 2
    assert crossings(two).hidden_states == 4
    # From card to card of a helper: a message, and one back.
    assert crossings(one).messages == 2 + 2 * 5
    assert crossings(two).messages == 2 * (2 + 2 * 2)
    assert crossings(one).cards == crossings(two).cards == 6
    assert crossings(planned(rig(12))).messages == 0


def test_a_token_is_under_way_for_as_long_as_its_messages_and_bytes_take() -> None:
    plan = planned(rig(6, lent("rig2", 6)))
    size = crossing_bytes(plan)
    # Two hidden states, and to each card what rotates K and V.
    assert size == pytest.approx(2 * 4 * 8192 + 6 * 4 * (128**2 + 64**2), rel=0.05)
    assert crossing_s(plan, GIGABIT) == pytest.approx(12 * LATENCY + size / GIGABIT)
    unrotated = planned(rig(6, lent("rig2", 6)), hand=HandSet(kv_type="f16"))
    assert size - crossing_bytes(unrotated) == 6 * 4 * (128**2 + 64**2)
    # The mask grows with the context, and each lent card has one.
    full, half = (crossing_bytes(plan, 512, context) for context in (8192, 4096))
    assert full - half == 6 * 512 * 2 * 4096
    assert crossing_s(planned(rig(12)), GIGABIT, 512, 4096) == 0


#: What went over the wire from a llama-server 0c1e57098 to a ggml-rpc-server with one and two
#: devices, bytes: for a token of an answer (SET_TENSOR), and for a prompt of 361 tokens (SET_TENSOR
#: and GRAPH_COMPUTE); and the answers that were waited for (GET_TENSOR and COPY_TENSOR).
ON_THE_WIRE = [(1, 38_148, 1_244_006, 494_209, 1), (2, 73_338, 1_655_546, 496_375, 2)]


@pytest.mark.parametrize(("count", "token", "prompt", "graph", "answers"), ON_THE_WIRE)
def test_what_crosses_is_what_was_counted_on_the_wire(
    count: int, token: int, prompt: int, graph: int, answers: int
) -> None:
    # SmolLM2-135M; where its weights lie does not matter.
    shape = replace(
        SMALL,
        n_layers=30,
        n_embd=576,
        n_ff=1536,
        n_heads=9,
        head_k=64,
        head_v=64,
        kv_heads=(3,) * 30,
        layer_bytes=(1,) * 30,
        n_ctx_train=8192,
    )
    computing = Card(name="CPU", vram=4000 * MIB, generation=CPU)
    helper = Helper(name="rig2", cards=(replace(computing, host="rig2"),) * count, ram=8000 * MIB)
    plan = planned(replace(rig(0, helper), cards=(computing,)), shape)
    back = 4 * 576  # which crossed as logits there, as the last device was the helper's
    assert crossing_bytes(plan) - back == pytest.approx(token, rel=0.01)
    assert crossing_bytes(plan, 361) - 361 * back == pytest.approx(prompt + graph, rel=0.015)
    assert crossings(plan).messages == 2 * answers


def test_tokens_per_second_are_those_of_one_rig_less_the_way() -> None:
    over, here = planned(rig(6, lent("rig2", 6))), planned(rig(12))
    slow, fast = tokens_per_second(over), tokens_per_second(here)
    assert slow
    assert fast
    assert 1 / slow - 1 / fast == pytest.approx(crossing_s(over, GIGABIT))
    assert tokens_per_second(here, MIB) == fast, "no network in it"


@given(st.integers(1, 400), st.integers(1, 400))
def test_a_faster_network_never_makes_an_answer_slower(first: int, second: int) -> None:
    plan = planned(rig(4, lent("rig2", 2)), LARGE)
    slow, fast = sorted((first, second))
    speeds = [tokens_per_second(plan, mib_s * MIB) for mib_s in (slow, fast)]
    assert speeds == sorted(speed for speed in speeds if speed)


# --- host RAM ----------------------------------------------------------------------------------


def test_cuda_s_share_of_lent_cards_is_their_host_s() -> None:
    wanted = planned(rig(6, lent("rig2", 6))).settings
    one_rig = process_ram(LlamaServer(LARGEST, wanted, cards=12))
    leader = process_ram(LlamaServer(LARGEST, wanted, cards=6, lent=6))
    cuda = cards(1)[0].generation.host.of(wanted.slots)
    assert one_rig - leader == 6 * cuda - 2 * LARGEST.largest_matrix_bytes
    # And what a helper has to have grows by it.
    slots = wanted.slots
    more = [lending_ram(LARGEST, cards(1)[0].generation, count, slots) for count in (1, 6)]
    assert more[1] - more[0] == 5 * cuda


def test_a_helper_with_too_little_ram_is_a_problem_and_says_for_how_many_cards_it_has_it() -> None:
    # Two cards more take 2 x 357 MiB.
    need = lending_ram(LARGEST, cards(1)[0].generation, 6, slots=1)
    helper = replace(lent("rig2", 6), ram=need - 400 * MIB)
    made = plan_over_rigs(rig(6, helper), [LARGEST], NOTHING)
    (problem,) = made.problems
    assert problem.startswith("to lend 6 cards rig2 needs ")
    assert problem.endswith("; would fit: 4 of its cards, 4 GB of RAM")
    tiny = replace(helper, ram=500 * MIB)
    (problem,) = plan_over_rigs(rig(6, tiny), [LARGEST], NOTHING).problems
    assert problem.endswith("; would fit: 4 GB of RAM")
    enough = replace(helper, ram=need)
    assert plan_over_rigs(rig(6, enough), [LARGEST], NOTHING).works


def test_a_helper_s_ram_decides_slots_as_the_rig_s_does() -> None:
    """Each slot has kernels of its own, which lie in the RAM of the host that computes."""
    kind = cards(1)[0].generation
    assert planned(rig(6, lent("rig2", 6))).settings.slots == 4
    for slots in (3, 2, 1):
        helper = replace(lent("rig2", 6), ram=lending_ram(LARGEST, kind, 6, slots))
        plan = planned(rig(6, lent("rig3", 1), helper))
        assert plan.settings.slots == slots
        assert plan.why["slots"] == "a helper's RAM is not enough for more"
        assert plan.why["quantisation"] == "there is no other to choose"
        # What is set by hand is held to the same.
        made = plan_over_rigs(rig(6, helper), [LARGEST], HandSet(slots=slots + 1))
        assert made.servers[0].plan.settings.slots == slots + 1
        (problem,) = made.problems
        assert f", slots {slots}, " in problem


# --- what cannot be ----------------------------------------------------------------------------


def notes(made: RigPlan) -> str:
    return "\n".join(made.notes)


def test_a_model_that_the_rig_holds_alone_gets_a_note_with_both_speeds() -> None:
    made = plan_over_rigs(rig(6, lent("rig2", 6)), [SMALL], NOTHING)
    assert made.works
    assert "rig1 holds Llama-3.1-8B Q4_K_M without help, on P106-100: helpers cost speed, " in (
        notes(made)
    )
    group = plan_over_rigs(rig(6, lent("rig2", 6)), [LARGE], NOTHING)
    assert "without help, on 3 P106-100" in notes(group)
    assert "without help" not in notes(plan_over_rigs(rig(6, lent("rig2", 6)), [LARGEST], NOTHING))
    # Its cards would do, and its RAM would not.
    poor = rig(6, lent("rig2", 6), gigabytes=1)
    assert "without help" not in notes(plan_over_rigs(poor, [SMALL], NOTHING))


@pytest.mark.parametrize(
    ("helped", "said"),
    [
        (rig(2, lent("rig2", 1), lent("rig2", 1)), "rig2 is named twice; name each once"),
        (rig(2, lent("rig1", 1)), "rig1 cannot be its own helper"),
        (rig(2, lent("a@b", 1)), "the helper a@b has a"),
        (rig(8, lent("rig2", 8)), "have 16 cards, and llama.cpp computes on 15 at most: leave out"),
    ],
)
def test_what_cannot_be_one_backend_is_refused(helped: Rig, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        plan_over_rigs(helped, [LARGE], NOTHING)


def test_generations_are_kept_apart() -> None:
    other = replace(parse_rig("RTX 3060 12 GB").cards[0], host="rig2")
    helper = Helper(name="rig2", cards=(other,), ram=nominal_ram(8))
    with pytest.raises(ModelError, match=r"its helper rig2 RTX 3060 12GB .*or the helper"):
        plan_over_rigs(rig(2, helper), [LARGE], NOTHING)


def test_more_than_fifteen_cards_are_no_group_of_one_rig_either() -> None:
    assert isinstance(plan_backend(cards(15), [LARGEST], NOTHING), BackendPlan)
    with pytest.raises(ModelError, match="16 cards are more than llama"):
        plan_backend(cards(16), [LARGEST], NOTHING)
