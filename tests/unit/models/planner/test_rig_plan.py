"""What the cards of a rig share: host RAM, cores, disk."""

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner import report
from heartcode_models.planner.description import parse_rig
from heartcode_models.planner.find_models import find_models
from heartcode_models.planner.grouping import plan_grouped
from heartcode_models.planner.host_ram import SMALLEST_CACHE
from heartcode_models.planner.rig_plan import RigPlan, plan_rig
from heartcode_models.planner.settings import HandSet
from heartcode_models.planner.speed import tokens_per_second
from heartcode_models.units import MIB
from hypothesis import given
from hypothesis import strategies as st

MODELS = find_models("8B")


def plan(text: str, **hand: int | str) -> RigPlan:
    return plan_rig(parse_rig(text), MODELS, HandSet.from_mapping(hand, "test"))


def test_the_rig_of_the_requirement() -> None:
    made = plan("P106-100 × 6, 4 GB RAM")
    assert made.works
    assert len(made.servers) == 6
    assert {server.plan.model.quantisation for server in made.servers} == {"Q4_K_M"}
    assert {(s.cache_ram_mib, s.n_threads) for s in made.servers} == {(0, 1)}
    assert made.ram.total < made.rig.ram
    # Six copies of the embeddings, or second slots, would be too much for 4 GB.
    assert made.load_mode == "mmap"
    assert {server.plan.settings.slots for server in made.servers} == {1}
    assert {s.plan.why["slots"] for s in made.servers} == {"the host's RAM is not enough for more"}
    assert any("an H100's" in note for note in made.notes)


def test_twice_the_host_ram_is_enough_for_two_slots_and_prompts() -> None:
    made = plan("P106-100 × 6, 8 GB RAM")
    assert (made.works, made.load_mode) == (True, "none")
    assert {server.plan.settings.slots for server in made.servers} == {2}
    assert all(server.cache_ram_mib > 200 for server in made.servers)
    assert not any("H100" in note for note in made.notes)


@pytest.mark.parametrize("cards", range(1, 13))
@pytest.mark.parametrize("gigabytes", [4, 6, 8])
def test_a_slot_is_given_up_only_where_two_would_not_fit(cards: int, gigabytes: int) -> None:
    text = f"P106-100 × {cards}, {gigabytes} GB RAM"
    made = plan(text)
    fewest = min(server.plan.settings.slots for server in made.servers)
    if made.works and fewest == 1:
        assert not plan(text, slots=2).works
    assert made.works or not any(plan(text, slots=n, load_mode="mmap").works for n in (1, 2))


def test_a_mixed_rig_is_planned_card_by_card() -> None:
    made = plan("P106-100 x 2 + P104-100, 8 GB RAM")
    chosen = [(s.plan.card.name, s.plan.model.quantisation) for s in made.servers]
    assert chosen == [("P106-100", "Q4_K_M")] * 2 + [("P104-100", "Q6_K")]
    assert any("brings each one its own" in note for note in made.notes)


def test_cards_that_fit_are_planned_beside_one_that_does_not() -> None:
    made = plan("P106-100 + card 4 GB, 8 GB RAM")
    assert (len(made.servers), len(made.refusals)) == (1, 1)
    assert not made.works


def ways_out(made: RigPlan) -> list[str]:
    (problem,) = made.problems
    return problem.split("would fit: ")[1].split("; ")


def test_too_little_host_ram_says_what_would_fit() -> None:
    cards, ram = ways_out(plan("P106-100 x 8, 4 GB RAM"))
    assert (cards, ram) == ("6 of the 8 cards", "6 GB of host RAM")
    assert plan("P106-100 x 6, 4 GB RAM").works
    assert not plan("P106-100 x 7, 4 GB RAM").works
    assert plan("P106-100 x 8, 6 GB RAM").works


def test_what_keeps_host_ram_from_being_enough_may_be_set_by_hand() -> None:
    text = "P106-100 x 6, 4 GB RAM"
    assert "4 of the 6 cards" in ways_out(plan(text, load_mode="none"))
    assert plan("P106-100 x 4, 4 GB RAM", load_mode="none").works
    assert ways_out(plan(text, load_mode="none", slots=1))[0].startswith("load_mode mmap")
    assert plan(text, load_mode="mmap", slots=1).works
    assert ways_out(plan(text, slots=2, n_ctx=8192, load_mode="mmap"))[0] == "slots 1"
    assert plan(text, slots=1, n_ctx=8192, load_mode="mmap").works


def test_too_large_a_cache_by_hand_says_what_would_fit() -> None:
    made = plan("P106-100 x 6, 8 GB RAM", cache_ram_mib=8192)
    (problem,) = made.problems
    each = int(problem.split("cache_ram_mib ")[1].split()[0])
    assert plan("P106-100 x 6, 8 GB RAM", cache_ram_mib=each).works


def test_too_many_threads_by_hand_are_a_problem() -> None:
    assert not plan("P106-100 x 6, 4 GB RAM, 2 cores", n_threads=4).works
    assert plan("P106-100, 4 GB RAM, 4 cores", n_threads=4).works


def test_a_full_disk_is_a_problem() -> None:
    assert plan("P106-100, 4 GB RAM, 6 GB disk").works
    made = plan("P106-100, 4 GB RAM, 4 GB disk")
    (problem,) = made.problems
    file = made.servers[0].plan.model.file_bytes
    lacking = -(-(file - 4_000_000_000) // MIB)
    assert f"free {lacking} MiB more, or take a smaller quantisation or model" in problem


def test_files_of_the_same_quantisation_are_not_one_on_the_disk() -> None:
    small, large = find_models("8B Q4_K_M"), find_models("12B Q4_K_M")
    rig = parse_rig("P104-100 x 2, 16 GB RAM, 11 GB disk")
    made = plan_rig(rig, small, HandSet(slots=1, n_ctx=4096), own_models=[small, large])
    assert len(made.servers) == 2
    (problem,) = made.problems
    both = sum(model.file_bytes for model in (*small, *large))
    assert f"the models' files take {-(-both // MIB)} MiB" in problem


def test_much_host_ram_maps_the_file() -> None:
    assert plan("P106-100 x 6, 32 GB RAM").load_mode == "mmap"
    assert plan("P106-100 x 6, 8 GB RAM").load_mode == "none"


def test_a_riser_is_mentioned() -> None:
    assert any("loads its model in" in note for note in plan("P106-100, 4 GB RAM, x1").notes)


def test_what_nobody_has_measured_is_said() -> None:
    assert any("CUDA takes for itself on RTX 3060 12GB" in n for n in plan("RTX 3060 12 GB").notes)
    assert not any("CUDA" in note for note in plan("P106-100 + GTX 1070").notes)
    # Of each card of a group.
    made = plan_grouped(parse_rig("RTX 3060 12 GB + RTX 2060 6 GB"), find_models("24B"), HandSet())
    (server,) = made.servers
    assert len(server.plan.cards) == 2
    for name in ("RTX 3060 12GB", "RTX 2060 6GB"):
        assert any(f"CUDA takes for itself on {name}" in note for note in made.notes)


def test_a_mixture_of_experts_reads_those_it_was_given() -> None:
    def ceiling(model: Model) -> float:
        made = plan_rig(parse_rig("P106-100"), [model], HandSet())
        speed = tokens_per_second(made.servers[0].plan)
        assert speed
        return speed

    dense = MODELS[-1]
    experts = sum(dense.layer_bytes) * 8 // 10
    sparse = replace(
        dense, experts=64, experts_used=8, n_ff=0, n_ff_expert=768, expert_bytes=(experts,)
    )
    read = dense.read_per_token() - experts * 7 // 8
    assert ceiling(sparse) == pytest.approx(ceiling(dense) * dense.read_per_token() / read)


def test_hand_set_values_of_one_card_leave_the_others_alone() -> None:
    rig = parse_rig("P106-100 x 2, 8 GB RAM")
    by_card = [HandSet(n_ctx=4096, slots=1), HandSet()]
    first, second = plan_rig(rig, MODELS[-1:], HandSet(), by_card).servers
    assert (first.plan.settings.n_ctx, first.plan.settings.slots) == (4096, 1)
    assert (second.plan.settings.n_ctx, second.plan.settings.slots) == (9216, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("n_ctx", 100), ("slots", 0), ("kv_type", "q5_0"), ("n_ctx", "many"), ("load_mode", "fast")],
)
def test_a_value_that_cannot_work_names_itself(name: str, value: int | str) -> None:
    with pytest.raises(ModelError, match=f"rig1: {name} must be"):
        HandSet.from_mapping({name: value}, "rig1")


@given(
    cards=st.integers(1, 12),
    gigabytes=st.integers(2, 64),
    cores=st.integers(1, 16),
    kind=st.sampled_from(["P106-100", "P104-100", "P102-100"]),
)
def test_a_plan_stays_within_the_host(cards: int, gigabytes: int, cores: int, kind: str) -> None:
    made = plan(f"{kind} x {cards}, {gigabytes} GB RAM, {cores} cores")
    caches = [server.cache_ram_mib * MIB for server in made.servers]
    if not made.problems:
        assert made.ram.total + sum(caches) <= made.rig.ram
    assert all(cache == 0 or cache >= SMALLEST_CACHE for cache in caches)
    threads = [server.n_threads for server in made.servers]
    assert all(1 <= n <= 4 for n in threads)
    assert sum(threads) <= max(cores, cards)


@given(
    kind=st.sampled_from(["P106-100", "P104-100", "card 3 GB", "RTX 3060 12 GB"]),
    gigabytes=st.integers(2, 32),
    hand=st.fixed_dictionaries(
        {},
        optional={
            "n_gpu_layers": st.integers(0, 40),
            "n_ctx": st.integers(256, 131072),
            "slots": st.integers(1, 16),
            "n_batch": st.integers(1, 4096),
            "cache_ram_mib": st.integers(0, 16384),
            "load_mode": st.sampled_from(["none", "mmap", "dio", "mlock"]),
        },
    ),
)
def test_every_plan_can_be_shown(kind: str, gigabytes: int, hand: dict[str, Any]) -> None:
    made = plan(f"{kind} x 2 + P104-100, {gigabytes} GB RAM, x1", **hand)
    rows = report.table([made]).split("\n\n")[0].splitlines()[1:]
    assert sum(int(row.split()[1]) for row in rows) == 3
    data = json.loads(json.dumps(report.as_data(made)))
    assert len(data["cards"]) + len(data["refusals"]) == 3
    listed = yaml.safe_load(report.inventory(made))["rig"]["llama_server_gpus"] or []
    assert len(listed) == len(made.servers)
    for name in hand.keys() & {"n_gpu_layers", "n_ctx", "slots", "n_batch", "cache_ram_mib"}:
        written = "all" if name == "n_gpu_layers" and hand[name] >= 33 else hand[name]
        assert {gpu[name] for gpu in listed} <= {written}


@given(gigabytes=st.integers(2, 32))
def test_more_host_ram_never_gives_less_cache_in_the_same_load_mode(gigabytes: int) -> None:
    less = plan(f"P106-100 x 4, {gigabytes} GB RAM")
    more = plan(f"P106-100 x 4, {gigabytes + 1} GB RAM")
    if less.load_mode == more.load_mode:
        assert more.servers[0].cache_ram_mib >= less.servers[0].cache_ram_mib
