"""Which cards serve a model together, and what a rig could serve."""

import json
from dataclasses import replace

import pytest
import yaml
from heartcode_models.errors import ModelError
from heartcode_models.planner import report
from heartcode_models.planner.cards import HOPPER
from heartcode_models.planner.choose import BackendPlan, plan_backend
from heartcode_models.planner.description import parse_rig
from heartcode_models.planner.find_models import find_models
from heartcode_models.planner.grouping import asked_for, few_cards, plan_grouped, proposals
from heartcode_models.planner.known_models import known_model
from heartcode_models.planner.rig_plan import RigPlan
from heartcode_models.planner.settings import HandSet
from heartcode_models.planner.speed import HOST_BANDWIDTH, tokens_per_second
from heartcode_models.planner.vram import weights

RIG = parse_rig("P106-100 x 6, 8 GB RAM")
NOTHING = HandSet()


def plan(text: str, model: str, groups: str | None = None, **hand: int | str) -> RigPlan:
    return plan_grouped(
        parse_rig(text), find_models(model), HandSet.from_mapping(hand, "test"), groups
    )


def sizes(made: RigPlan) -> list[int]:
    return [len(server.plan.cards) for server in made.servers]


@pytest.mark.parametrize(
    ("model", "groups"),
    [("8B", [1] * 6), ("12B", [2] * 3), ("24B", [3] * 2), ("30B-A3B", [4])],
)
def test_as_few_cards_as_hold_a_model(model: str, groups: list[int]) -> None:
    made = plan("P106-100 x 6, 8 GB RAM", model)
    assert made.works
    assert sizes(made) == groups
    # One card less would not do.
    for fewer in {size - 1 for size in groups if size > 1}:
        assert not plan("P106-100 x 6, 8 GB RAM", model, str(fewer)).works


def test_cards_that_are_left_are_named() -> None:
    made = plan("P106-100 x 6, 8 GB RAM", "30B-A3B")
    assert any(note.startswith("cards 4, 5 are left") for note in made.notes)
    assert not any("left" in note for note in plan("P106-100 x 6, 8 GB RAM", "24B").notes)


def test_a_card_that_holds_a_model_alone_stays_alone() -> None:
    made = plan("P106-100 + P104-100 + P106-100, 16 GB RAM", "12B")
    assert [[card.name for card in s.plan.cards] for s in made.servers] == [
        ["P104-100"],
        ["P106-100", "P106-100"],
    ]


def test_a_single_card_that_is_too_small_still_says_what_would_fit() -> None:
    made = plan("P106-100 + card 4 GB, 8 GB RAM", "8B")
    assert (sizes(made), len(made.refusals)) == ([1], 1)
    assert "group of 2" in "; ".join(made.refusals[0].would_fit)


def test_layers_left_to_the_cpu_by_hand_are_no_group_s() -> None:
    made = few_cards(RIG, find_models("24B"), HandSet(n_gpu_layers=10))
    assert [len(group) for group in made.groups] == [1] * 6
    with pytest.raises(ModelError, match="Leave n_gpu_layers out"):
        plan("P106-100 x 6, 8 GB RAM", "24B", "3", n_gpu_layers=10)


def test_a_model_that_needs_more_than_the_rig_has_says_how_many_cards_would_do() -> None:
    made = plan("P106-100 x 2, 8 GB RAM", "24B")
    (refusal,) = made.refusals
    assert not made.works
    assert "2 P106-100" in refusal.reason
    assert "MiB more than" in refusal.reason
    assert any("a group of 3 P106-100" in text for text in refusal.would_fit)
    assert plan("P106-100 x 3, 8 GB RAM", "24B").works


def test_generations_are_not_mixed() -> None:
    mixed = replace(RIG, cards=(*RIG.cards[:2], *(replace(RIG.cards[0], generation=HOPPER),) * 2))
    made = few_cards(mixed, find_models("24B"), NOTHING)
    assert all(len({card.generation.name for card in group}) == 1 for group in made.groups)
    with pytest.raises(ModelError, match=r"different generations.*keep P106-100 .Pascal. from"):
        asked_for(mixed, "0+1+2")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0+1,1+2", "card 1 stands twice in groups 0 and 1"),
        ("0+0", "card 0 stands twice in a group"),
        ("0+6", "no card 6: its cards are 0 to 5"),
        ("7", "rig has 6; give 1 to 6"),
        ("0", "give 1 to 6"),
        ("two", "are not understood"),
        ("0+1,", "are not understood"),
        ("0-2", "are not understood"),
        ("9" * 5000, "are not understood"),
        ("²", "are not understood"),
    ],
)
def test_groups_that_cannot_be_are_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ModelError, match=says) as refused:
        asked_for(RIG, text)
    assert "\n" not in str(refused.value)


def test_groups_by_number_and_by_card() -> None:
    assert [len(group) for group in asked_for(RIG, "2").groups] == [2, 2, 2]
    assert asked_for(RIG, "4").left == (4, 5)
    made = asked_for(RIG, "0+1+2, 5")
    assert ([len(group) for group in made.groups], made.left) == ([3, 1], (3, 4))


def test_a_group_s_cards_work_in_turn() -> None:
    (model,) = find_models("24B Q4_K_M")
    made = plan_backend(RIG.cards[:3], [model], NOTHING)
    assert isinstance(made, BackendPlan)
    speed = tokens_per_second(made)
    assert speed == pytest.approx(167e9 / weights(model, model.all_layers))


def test_experts_in_host_ram_are_read_over_its_bus() -> None:
    model = known_model("30B-A3B", "Q4_K_M")
    read = sum(model.expert_bytes) * model.experts_used / model.experts
    made = plan("P106-100, 32 GB RAM, 4 cores", "30B-A3B Q4_K_M", n_cpu_moe="all")
    (server,) = made.servers
    assert server.plan.settings.n_cpu_moe == 48
    beside = weights(model, model.all_layers) - sum(model.expert_bytes)
    speed = tokens_per_second(server.plan)
    assert speed == pytest.approx(1 / (read / HOST_BANDWIDTH + beside / 167e9), rel=1e-4)
    # What they cost: RAM for all of them, and the CPU's cores to compute them.
    assert made.ram.total > sum(model.expert_bytes)
    assert server.n_threads == 4
    assert any("DDR3-1600" in note for note in made.notes)


def test_experts_in_host_ram_want_a_host_that_has_it() -> None:
    made = plan("P106-100, 8 GB RAM", "30B-A3B Q4_K_M", n_cpu_moe="all")
    assert not made.works
    assert "GB of host RAM" in made.problems[0]


def test_a_dense_model_has_no_experts_to_leave_to_the_cpu() -> None:
    with pytest.raises(ModelError, match="for mixtures of experts"):
        plan("P106-100 x 6, 8 GB RAM", "24B", n_cpu_moe=3)


def test_what_a_rig_could_serve() -> None:
    made = list(proposals(RIG, find_models("8B"), NOTHING))
    offered = {(p.servers[0].plan.model.name, sizes(p)[0]) for p in made}
    assert {("Llama-3.1-8B", 1), ("Mistral-Nemo-12B", 2), ("Mistral-Small-24B", 3)} <= offered
    assert ("Qwen3-30B-A3B", 4) in offered
    assert all(p.works for p in made)
    table = report.groupings(made)
    assert "2 x 3 P106-100  Mistral-Small-24B Q4_K_M" in table
    own = replace(find_models("8B Q4_K_M")[0], name="Mine")
    assert next(proposals(RIG, [own], NOTHING)).servers[0].plan.model.name == "Mine"


def test_the_report_of_a_group_adds_up() -> None:
    made = plan("P106-100 x 6, 8 GB RAM, x1", "24B")
    text = report.table([made])
    assert "rig1" not in text
    assert "2 x 3 P106-100" in text
    assert "--split-mode layer --tensor-split 14,14,13" in text
    assert "28-39 + output" in text
    assert any("crosses from card to card" in note for note in made.notes)
    data = report.as_data(made)
    json.dumps(data)
    (first, _) = data["cards"]
    assert first["tensor_split"] == [14, 14, 13]
    assert [share["layers"] for share in first["shares"]] == [14, 14, 12]
    assert [share["output"] for share in first["shares"]] == [False, False, True]
    for share in first["shares"]:
        assert share["vram_mib"]["total"] <= share["vram_mib"]["usable"]
    listed = yaml.safe_load(report.inventory(made))["rig"]["llama_server_gpus"]
    assert [gpu["gpus"] for gpu in listed] == [["GPU-..."] * 3] * 2
    assert [gpu["n_gpu_layers"] for gpu in listed] == ["all", "all"]
    experts = plan("P106-100, 32 GB RAM", "30B-A3B Q4_K_M", n_cpu_moe="all")
    with pytest.raises(ModelError, match="no variables for n_cpu_moe"):
        report.inventory(experts)


def test_cards_of_another_generation_do_not_keep_a_group_apart() -> None:
    small = replace(RIG.cards[0], generation=HOPPER)
    between = replace(RIG, cards=(RIG.cards[0], small, RIG.cards[1], small, RIG.cards[2]))
    made = few_cards(between, find_models("24B"), NOTHING)
    assert made.groups == (RIG.cards[:3],)
    assert made.left == (1, 3)


@pytest.mark.parametrize("model", ["12B", "24B", "30B-A3B"])
def test_cards_in_the_order_of_their_groups_make_the_same_groups(model: str) -> None:
    """As a second run finds them: numbers stay."""
    rig = parse_rig("P106-100 x 2 + P104-100 x 2 + RTX 3060 12 GB + P106-100 x 4, 32 GB RAM")
    rig = replace(rig, cards=tuple(replace(card, uuid=str(n)) for n, card in enumerate(rig.cards)))
    first = few_cards(rig, find_models(model), NOTHING)
    served = [card for group in first.groups for card in group]
    order = (*served, *(card for card in rig.cards if card not in served))
    again = few_cards(replace(rig, cards=order), find_models(model), NOTHING)
    assert again.groups == first.groups


def test_a_group_takes_host_ram_for_each_of_its_cards() -> None:
    together = plan("P106-100 x 2, 16 GB RAM", "8B Q4_K_M", "2", slots=1, n_ctx=4096)
    alone = plan("P106-100, 16 GB RAM", "8B Q4_K_M", slots=1, n_ctx=4096)
    host = RIG.cards[0].generation.host.of(1)
    assert together.ram.processes - alone.ram.processes > host
