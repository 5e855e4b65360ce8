"""Rigs as playbooks/plan.yml finds them."""

from typing import Any

import pytest
from heartcode_models.errors import ModelError
from heartcode_models.planner.facts import (
    QUERY,
    capability_of,
    from_nvidia_smi,
    from_sysfs,
    plan_fleet,
)
from heartcode_models.planner.rig_plan import RigPlan
from heartcode_models.planner.settings import HandSet
from heartcode_models.units import MIB

from tests.contracts.test_roles import load

P106 = "GPU-aa, P106-100, 6075, 76, 1, 16, 00000000:01:00.0, 6.1"
P104 = "GPU-bb, NVIDIA P104-100, 8192, 76, [N/A], 1, 00000000:02:00.0, 6.1"

DYING = "GPU-cc, P106-100, [Unknown Error], 0, 1, 16, 00000000:03:00.0, 6.1"


def host(**changes: Any) -> dict[str, Any]:
    return {
        "name": "rig1",
        "model": "8B",
        "cards": "",
        "nvidia_smi": [P106, P104],
        "bus": [],
        "ram_mib": 7900,
        "cores": 2,
        "disk_bytes": None,
        "variables": {},
    } | changes


def plan(**changes: Any) -> RigPlan:
    fleet = plan_fleet([host(**changes)], HandSet())
    assert fleet.failures == ()
    return fleet.plans[0]


def on_the_bus(*devices: str) -> list[str]:
    return [f"0000:{number:02x}:00.0 {device} 1 2.5" for number, device in enumerate(devices)]


def failure(**changes: Any) -> str:
    fleet = plan_fleet([host(**changes)], HandSet())
    assert fleet.plans == ()
    return fleet.failures[0]


def test_the_playbook_asks_for_what_is_read() -> None:
    fields = load("roles/rig/vars/main.yml")["_rig_fields"]
    assert tuple(fields) == QUERY


@pytest.mark.parametrize(
    ("line", "name", "vram_mib", "link"),
    [
        (P106, "P106-100", 5999, 1_700_000_000),
        (P104, "P104-100", 8116, 250_000_000),
        (
            "GPU-cc, NVIDIA GeForce GTX 1070, 8192, [N/A], 3, 16, 00000000:03:00.0, 6.1",
            "GTX 1070",
            8192,
            15_760_000_000,
        ),
        (
            "GPU-dd, P104-100, 4036, 0, 1, 1, 00000000:04:00.0, 6.1",
            "P104-100 4GB",
            4036,
            250_000_000,
        ),
        (
            "GPU-ee, RTX 3060, 12288, 200, 4, [N/A], 00000000:05:00.0, 6.1",
            "RTX 3060 12GB",
            12088,
            0,
        ),
    ],
)
def test_lines_of_nvidia_smi(line: str, name: str, vram_mib: int, link: int) -> None:
    card = from_nvidia_smi(line)
    assert card
    assert (card.name, card.vram, card.link) == (name, vram_mib * MIB, link)


@pytest.mark.parametrize(
    "line",
    ["", "No devices were found", DYING, "GPU is lost"],
)
def test_a_card_that_does_not_answer_is_none(line: str) -> None:
    assert from_nvidia_smi(line) is None


@pytest.mark.parametrize(
    ("line", "name", "link"),
    [
        ("0x1c07 1 2.5 GT/s PCIe", "P106-100", 250_000_000),
        ("0x1b87 16 2.5 GT/s PCIe", "P104-100", 800_000_000),
        ("0x1b81", "GTX 1070", 0),
    ],
)
def test_lines_of_sysfs(line: str, name: str, link: int) -> None:
    card = from_sysfs(line)
    assert card
    assert (card.name, card.link) == (name, link)


def test_other_devices_are_none() -> None:
    assert from_sysfs("0xffff 16 8.0 GT/s PCIe") is None
    assert from_sysfs("") is None


def test_measured_cards_are_planned_for() -> None:
    made = plan()
    assert [s.plan.card.uuid for s in made.servers] == ["GPU-aa", "GPU-bb"]
    assert [s.plan.model.quantisation for s in made.servers] == ["Q4_K_M", "Q6_K"]


def test_the_inventory_s_order_counts_and_missing_cards_are_noted() -> None:
    gpus = [{"uuid": "GPU-bb"}, {"uuid": "GPU-zz"}, {"uuid": "GPU-aa"}]
    made = plan(variables={"llama_server_gpus": gpus})
    assert [s.plan.card.uuid for s in made.servers] == ["GPU-bb", "GPU-aa"]
    assert any("GPU-zz" in note for note in made.notes)


def test_a_card_that_the_inventory_does_not_name_is_noted() -> None:
    made = plan(variables={"llama_server_gpus": [{"uuid": "GPU-bb"}]})
    assert "GPU-aa (P106-100) is there and not in the inventory" in made.notes
    assert not any("not in the inventory" in note for note in plan().notes)


def test_a_card_s_own_file_comes_before_the_host_s() -> None:
    gpus = [{"uuid": "GPU-aa"}, {"uuid": "GPU-bb", "model_file": "stheno-8B-Q6_K.gguf"}]
    made = plan(model="stheno-8B-Q4_K_M.gguf", variables={"llama_server_gpus": gpus})
    assert [(s.plan.card.name, s.plan.model.quantisation) for s in made.servers] == [
        ("P106-100", "Q4_K_M"),
        ("P104-100", "Q6_K"),
    ]
    gpus[0]["model_file"] = "stheno-8B-Q6_K.gguf"
    made = plan(model="stheno-8B-Q4_K_M.gguf", variables={"llama_server_gpus": gpus})
    assert [refusal.card.name for refusal in made.refusals] == ["P106-100"]


def test_the_inventory_s_values_are_set_by_hand() -> None:
    variables = {
        "llama_server_n_ctx": 4096,
        "llama_server_slots": "1",
        "llama_server_load_mode": "mmap",
        "llama_server_gpus": [{"uuid": "GPU-bb", "slots": 3}, {"uuid": "GPU-aa", "extra_args": ""}],
    }
    made = plan(variables=variables)
    assert [(s.plan.settings.n_ctx, s.plan.settings.slots) for s in made.servers] == [
        (4096, 3),
        (4096, 1),
    ]
    assert made.load_mode == "mmap"


def test_the_inventory_comes_before_the_command_line() -> None:
    fleet = plan_fleet([host(variables={"llama_server_n_ctx": 2048})], HandSet(n_ctx=4096, slots=1))
    assert {s.plan.settings.n_ctx for s in fleet.plans[0].servers} == {2048}
    assert {s.plan.settings.slots for s in fleet.plans[0].servers} == {1}


def test_cards_may_be_described_and_get_the_inventory_s_uuids() -> None:
    gpus = [{"uuid": "virtual-0", "slots": 1}, {"uuid": "virtual-1"}]
    made = plan(
        nvidia_smi=[],
        cards="P106-100 x 2",
        model="8B Q4_K_M",
        variables={"llama_server_gpus": gpus},
    )
    assert [s.plan.card.uuid for s in made.servers] == ["virtual-0", "virtual-1"]
    assert [s.plan.settings.slots for s in made.servers] == [1, 2]


def test_without_a_driver_the_bus_is_believed() -> None:
    made = plan(
        nvidia_smi=[],
        bus=["0000:01:00.0 0x1c07 1 2.5 GT/s PCIe", "0000:02:00.0 0x10f0 1 2.5 GT/s PCIe"],
    )
    assert [s.plan.card.name for s in made.servers] == ["P106-100"]
    assert any("not measured" in note for note in made.notes)
    (left_out,) = (note for note in made.notes if "left out" in note)
    assert "0x10f0" in left_out
    assert "plan_cards" in left_out


def test_cards_of_an_unknown_kind_are_counted() -> None:
    made = plan(nvidia_smi=[], bus=on_the_bus("0x1b84", "0x1c07", "0x1b84"))
    (left_out,) = (note for note in made.notes if "left out" in note)
    assert "0x1b84" in left_out
    assert "2 of them" in left_out
    assert "0x1b84" in failure(nvidia_smi=[], bus=on_the_bus("0x1b84"))


def test_a_card_that_does_not_answer_nvidia_smi_is_said_to_be_left_out() -> None:
    made = plan(nvidia_smi=[P106, DYING])
    assert len(made.servers) == 1
    assert any("[Unknown Error]" in note and "left out" in note for note in made.notes)
    assert "[Unknown Error]" in failure(nvidia_smi=[DYING])


def test_a_card_that_the_driver_does_not_see_is_said_to_be_left_out() -> None:
    bus = on_the_bus("0x1c07", "0x1b87", "0x1c07")
    assert any("shows 3 cards" in note for note in plan(bus=bus).notes)
    assert not any("left out" in note for note in plan(bus=bus[:2]).notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nvidia_smi": []}, "plan_cards='P106-100 x 6'"),
        ({"ram_mib": None}, "did not answer"),
        ({"variables": {"llama_server_kv_type": "q5_1"}}, "kv_type must be one of"),
        ({"variables": {"llama_server_gpus": [{"uuid": "GPU-aa", "slots": 0}]}}, "card GPU-aa"),
        ({"model": "405B"}, "no known model"),
    ],
)
def test_a_host_that_cannot_be_planned_for_says_why(changes: dict[str, Any], message: str) -> None:
    text = failure(**changes)
    assert text.startswith("rig1: ")
    assert message in text


def test_one_host_s_trouble_is_not_the_others() -> None:
    fleet = plan_fleet([host(), host(name="rig2", nvidia_smi=[])], HandSet())
    assert [made.rig.name for made in fleet.plans] == ["rig1"]
    assert len(fleet.failures) == 1


def test_no_hosts_are_an_error() -> None:
    with pytest.raises(ModelError, match="no rigs"):
        plan_fleet([], HandSet())


@pytest.mark.parametrize(
    ("device", "capability"),
    [
        ("0x1c07", "61"),  # P106-100
        ("0x1b87", "61"),  # P104-100
        ("0x1b06", "61"),  # GTX 1080 Ti
        ("0x1d01", "61"),  # GT 1030
        ("0x15f8", "60"),  # Tesla P100
        ("0x1db4", "70"),  # Tesla V100
        ("0x13c2", "52"),  # GTX 970
        ("0x1380", "50"),  # GTX 750 Ti
        ("0x1eb8", "75"),  # Tesla T4
        ("0x2182", "75"),  # GTX 1660 Ti
        ("0x1f82", "75"),  # GTX 1650
        ("0x20b0", "80"),  # A100
        ("0x2204", "86"),  # RTX 3090
        ("0x2503", "86"),  # RTX 3060
        ("0x2684", "89"),  # RTX 4090
        ("0x2882", "89"),  # RTX 4060
        ("0x2330", "90"),  # H100
        ("0x10f0", ""),  # the sound of a GTX 1080
        ("", ""),
        ("none", ""),
    ],
)
def test_an_id_tells_the_generation(device: str, capability: str) -> None:
    assert capability_of(device) == capability


SIX = [f"GPU-{n}{n}, NVIDIA P106-100, 6144, 145, 1, 1, 00000000:0{n}:00.0, 6.1" for n in range(6)]


def test_groups_of_the_inventory_are_planned_as_they_stand_there() -> None:
    gpus: list[dict[str, Any]] = [
        {"uuid": "GPU-33+GPU-11+GPU-22", "slots": 1},
        {"uuid": "GPU-00", "model_file": "stheno-8B-Q4_K_M.gguf"},
    ]
    made = plan(nvidia_smi=SIX, model="24B Q4_K_M", variables={"llama_server_gpus": gpus})
    assert [[card.uuid for card in s.plan.cards] for s in made.servers] == [
        ["GPU-33", "GPU-11", "GPU-22"],
        ["GPU-00"],
    ]
    assert made.servers[0].plan.settings.slots == 1
    assert made.servers[1].plan.model.name == "Llama-3.1-8B"


def test_cards_that_are_found_are_grouped_as_site_yml_does() -> None:
    gpus = [{"uuid": f"GPU-{n}{n}"} for n in (5, 0, 1, 2, 3, 4)]
    asked = {"nvidia_smi": SIX, "model": "24B Q4_K_M", "variables": {"llama_server_gpus": gpus}}
    made = plan(**asked, found=True)
    assert [[card.uuid for card in s.plan.cards] for s in made.servers] == [
        ["GPU-55", "GPU-00", "GPU-11"],
        ["GPU-22", "GPU-33", "GPU-44"],
    ]
    # What is named stays as it is named.
    assert len(plan(**asked, found=False).refusals) == 6


def test_a_card_that_is_too_old_is_told_as_site_yml_does() -> None:
    old = "GPU-dd, Tesla P100-PCIE-16GB, 16384, 0, 3, 16, 00000000:06:00.0, 6.0"
    text = failure(nvidia_smi=[P106, old])
    assert "compute capability 6.1, and GPU-dd has less: leave it out with llama_serv" in text


def test_a_file_of_which_only_the_name_is_known_is_said_to_be_stood_in_for() -> None:
    said = "of 'gemma-3-12b-it-Q4_K_M.gguf' nothing but the size in its name is known: Mistral-Nemo"
    gpus = [{"uuid": "GPU-aa", "model_file": "gemma-3-12b-it-Q4_K_M.gguf"}]
    own = host(nvidia_smi=[P106], variables={"llama_server_gpus": gpus})
    for facts in (host(model="gemma-3-12b-it-Q4_K_M.gguf"), own):
        (made,) = plan_fleet([facts], HandSet()).plans
        assert any(note.startswith(said) for note in made.notes)
    (made,) = plan_fleet([host(model="stheno Q4_K_M")], HandSet()).plans
    assert not any("size in its name" in note for note in made.notes)


def test_a_group_of_several_generations_is_told() -> None:
    smi = [P106, "GPU-cc, NVIDIA RTX 3060, 12288, 200, 4, 16, 00000000:05:00.0, 8.6"]
    gpus = [{"uuid": "GPU-aa+GPU-cc"}]
    text = failure(nvidia_smi=smi, variables={"llama_server_gpus": gpus})
    assert "the group GPU-aa+GPU-cc mixes cards of different generations" in text


# --- over rigs ---------------------------------------------------------------------------------

THREE = [f"GPU-{letter}, P106-100, 6075, 76, 1, 1, 00000000:01:00.0, 6.1" for letter in "abc"]
HELPED = {"llama_server_helpers": ["rig2"]}


def helping(**changes: Any) -> dict[str, Any]:
    return host(name="rig2", lends=True, nvidia_smi=THREE, **changes)


def test_a_rig_is_planned_with_the_helpers_that_it_names() -> None:
    facts = [host(model="24B", nvidia_smi=[P106], variables=HELPED), helping()]
    fleet = plan_fleet(facts, HandSet())
    assert fleet.failures == ()
    (made,) = fleet.plans
    (server,) = made.servers
    uuids = [card.uuid for card in server.plan.cards]
    assert uuids == ["GPU-a@rig2", "GPU-b@rig2", "GPU-c@rig2", "GPU-aa"]
    assert made.rig.network == 110 * MIB
    # Cards of which only the place is known have no name here.
    bus = {"nvidia_smi": [], "bus": on_the_bus("0x1c07", "0x1c07", "0x1c07")}
    (made,) = plan_fleet([facts[0], helping() | bus], HandSet()).plans
    assert [card.uuid for card in made.servers[0].plan.cards] == ["", "", "", "GPU-aa"]
    assert any(note.startswith("rig2: no nvidia-smi there") for note in made.notes)


def test_what_the_inventory_sets_for_the_only_entry_counts() -> None:
    entry = {"uuid": "GPU-aa", "slots": 1}
    said = HELPED | {"llama_server_gpus": [entry], "llama_server_network_mib_s": "55"}
    facts = [host(model="24B", nvidia_smi=[P106], variables=said), helping()]
    (made,) = plan_fleet(facts, HandSet()).plans
    assert made.servers[0].plan.settings.slots == 1
    assert made.rig.network == 55 * MIB


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (
            [host(variables=HELPED)],
            "rig1: llama_server_helpers names rig2, and the group `helpers` has nobody",
        ),
        ([host(), helping()], "rig2: it is in the group `helpers`, and no rig names it in"),
        (
            [host(variables=HELPED), host(name="rig3", variables=HELPED), helping()],
            "rig2: it is in the group `helpers`, and rig1 and rig3 name it in llama_server_helpers",
        ),
        (
            [host(variables={"llama_server_helpers": "rig2"}), helping()],
            "rig1: llama_server_helpers must be a list, as in [rig2], not 'rig2'",
        ),
        (
            [host(variables=HELPED), {"name": "rig2"}],
            "rig1: its helper rig2: it did not answer; see above",
        ),
        (
            [
                host(
                    variables=HELPED
                    | {"llama_server_gpus": [{"uuid": "GPU-aa"}, {"uuid": "GPU-bb"}]}
                ),
                helping(),
            ],
            "rig1: llama_server_gpus has 2 entries, and a rig with llama_server_helpers serves one",
        ),
        (
            [host(variables=HELPED | {"llama_server_network_mib_s": "x"}), helping()],
            "rig1: llama_server_network_mib_s must be a whole number of MiB/s, at least 1, not 'x'",
        ),
    ],
)
def test_helpers_that_cannot_be_are_failures(facts: list[dict[str, Any]], said: str) -> None:
    assert any(failure.startswith(said) for failure in plan_fleet(facts, HandSet()).failures)
