"""What the only backend of a rig serves to which other hosts lend their cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from heartcode_models.deployment.rig_backends import Deployment, deploy
from heartcode_models.planner.known_models import known_model

ROOT = Path(__file__).parents[4]
P106 = "{}, NVIDIA P106-100, 6144, 69, 1, 1, 00000000:0{}:00.0, 6.1"
TURING = "{}, NVIDIA GeForce GTX 1660 Ti, 6144, 200, 3, 1, 00000000:0{}:00.0, 7.5"
MAXWELL = "{}, NVIDIA GeForce GTX 970, 4096, 60, 3, 16, 00000000:0{}:00.0, 5.2"
#: Cards of the rig itself and of two helpers.
OWN, LENT, MORE = (
    [f"GPU-{first}0600000-0000-4000-8000-00000000000{n}" for n in range(1, 3)]
    for first in (1, 2, 3)
)
LARGE = known_model("24B", "Q4_K_M")
FILE = {"name": "", "quantisation": "", "file": "large.gguf", "src": ""}
CATALOGUE: dict[str, Any] = {
    "catalogue": str(ROOT / "models/catalogue.toml"),
    "lock": str(ROOT / "models/lock.json"),
    "endpoint": "http://127.0.0.1:9",  # nobody listens there
    "token": "",
}


def smi(uuids: list[str], line: str = P106) -> list[str]:
    return [line.format(uuid, n) for n, uuid in enumerate(uuids, 1)]


def helper(name: str = "rig2", uuids: list[str] = LENT, **changes: Any) -> dict[str, Any]:
    told = {
        "name": name,
        "address": f"192.168.1.{22 + len(name)}",
        "port": 50052,
        "ram_mib": 7800,
        "cores": 2,
        "backend": "cuda",
        "nvidia_smi": smi(uuids),
        "bus": [],
        "gpus": [{"uuid": uuid} for uuid in uuids],
    }
    return told | changes


def of(*helpers: dict[str, Any], **changes: Any) -> Deployment:
    host = {
        "name": "rig1",
        "ram_mib": 7800,
        "cores": 2,
        "nvidia_smi": smi(OWN),
        "bus": [],
        "gpus": [{"uuid": uuid} for uuid in OWN],
        "found": True,
        "former": [],
        "backend": "cuda",
        "values": {},
        "model_name": "",
        "models": [FILE],
        "shapes": {"large.gguf": LARGE.as_data()},
        "helpers": list(helpers),
        "network_mib_s": 110,
        **CATALOGUE,
    }
    return deploy(host | changes)


def backend(*helpers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = of(*helpers, **changes)
    assert made.faults == ()
    (only,) = made.backends
    return dict(only)


def fault(*helpers: dict[str, Any], **changes: Any) -> str:
    made = of(*helpers, **changes)
    (text,) = made.faults
    assert made.backends == ()
    assert "\n" not in text
    return str(text)


# --- one backend -------------------------------------------------------------------------------


def test_helpers_cards_come_first_and_the_rig_s_last() -> None:
    made = backend(helper(), helper("rig3", MORE))
    lent = [f"{uuid}@rig2" for uuid in LENT] + [f"{uuid}@rig3" for uuid in MORE]
    assert made["uuid"].split("+") == [*lent, *OWN]
    assert [card.get("host") for card in made["cards"]] == [
        *["rig2"] * 2,
        *["rig3"] * 2,
        None,
        None,
    ]
    assert all(card["name"] == "P106-100" for card in made["cards"])
    assert len(made["tensor_split"]) == 6
    assert sum(made["tensor_split"]) == LARGE.all_layers
    assert made["n_gpu_layers"] == "all"
    assert made["helpers"] == [
        {"name": "rig2", "endpoint": "192.168.1.26:50052", "cards": 2},
        {"name": "rig3", "endpoint": "192.168.1.26:50052", "cards": 2},
    ]
    assert of(helper()).cuda_arch == "61-real"


def test_without_helpers_the_answer_is_as_it_was() -> None:
    questions: dict[str, Any] = {"nvidia_smi": smi([*OWN, *LENT, *MORE])}
    questions["gpus"] = [{"uuid": uuid} for uuid in [*OWN, *LENT, *MORE]]
    assert of(**questions) == of(**questions, helpers=None)
    made = of(**questions)
    assert [len(one["tensor_split"]) for one in made.backends] == [3, 3]
    assert all("helpers" not in one for one in made.backends)
    assert all("host" not in card for one in made.backends for card in one["cards"])


def test_what_the_inventory_says_of_the_only_entry_is_the_backend_s() -> None:
    entry = {"uuid": "+".join(reversed(OWN)), "slots": 1, "extra_args": "-v"}
    made = backend(helper(), gpus=[entry], found=False, values={"n_ctx": 4096, "slots": 2})
    assert made["uuid"].split("+")[2:] == list(reversed(OWN))
    assert (made["n_ctx"], made["slots"], made["extra_args"]) == (4096, 1, "-v")


def test_the_plan_shows_hosts_and_what_the_network_costs() -> None:
    table = of(helper(), network_mib_s=55).table
    assert "1 x (2 P106-100 of rig2 + 2 P106-100)" in table
    assert "HOST  CARD      LAYERS" in table
    assert "over a network of 55 MiB/s" in table


def test_a_second_run_chooses_the_same_with_cards_that_are_gone() -> None:
    first = backend(helper())
    former = [json.loads(json.dumps(first))]
    assert backend(helper(), former=former) == first
    fewer: list[dict[str, Any]] = [{"nvidia_smi": smi(LENT[:1])}, {"nvidia_smi": []}]
    for gone in fewer:
        assert backend(helper(**gone), former=former) == first, "a helper's cards"
        assert backend(helper(), former=former, **gone) == first, "the rig's own"
    assert backend(helper(nvidia_smi=[]), former=former, nvidia_smi=[]) == first


def test_another_helper_s_card_of_the_same_name_is_not_taken_for_it() -> None:
    first = backend(helper())
    former = [{**first, "cards": [{**card, "vram_mib": 9999} for card in first["cards"]]}]
    made = backend(helper("rig9", nvidia_smi=smi(LENT[:1])), former=former)
    assert {card["vram_mib"] for card in made["cards"] if "host" in card} == {6075}


def test_before_there_is_a_driver_cards_are_known_by_their_places() -> None:
    place = "PCI-0000:01:00.0"
    bus = ["0000:01:00.0 0x1c07 1 2.5 GT/s PCIe"]
    told = helper(nvidia_smi=[], bus=bus, gpus=[{"uuid": place}])
    made = of(told)
    assert made.waits
    assert made.backends[0]["uuid"].split("+") == [f"{place}@rig2", *OWN]
    # Of one that is not listed the memory is known with the driver, its compute capability before.
    told = helper(nvidia_smi=[], bus=["0000:01:00.0 0x2182 1 2.5 GT/s"], gpus=[{"uuid": place}])
    made = of(told)
    assert (made.waits, made.cuda_arch) == (True, "61-real;75-real")
    assert made.notes[0].startswith(f"the memory of {place}@rig2 is known when the driver")
    assert made.backends[0]["tensor_split"] == [1, 6075, 6075]
    assert made.backends[0]["helpers"][0]["cards"] == 1


def test_layers_of_a_model_that_nobody_knows_are_shared_out_by_memory() -> None:
    made = of(helper(), shapes={"large.gguf": "it has no attention"})
    assert made.backends[0]["tensor_split"] == [6075] * 4
    assert "(it has no attention)" in made.notes[0]
    # What serves goes on as it is.
    served = {**made.backends[0], "tensor_split": [9, 9, 8, 7], "n_ctx": 6144}
    again = backend(helper(), shapes={"large.gguf": "it has no attention"}, former=[served])
    assert (again["tensor_split"], again["n_ctx"]) == ([9, 9, 8, 7], 6144)


# --- where the CPU computes --------------------------------------------------------------------

CPU: dict[str, Any] = {"backend": "cpu", "nvidia_smi": [], "ram_mib": 23_000}


def test_on_the_cpu_all_layers_are_with_the_helpers() -> None:
    made = backend(
        helper(**CPU), **CPU, gpus=[{"uuid": "cpu", "n_gpu_layers": 3}], values={"n_gpu_layers": 0}
    )
    assert made["uuid"].split("+") == [f"{uuid}@rig2" for uuid in LENT] + ["cpu"]
    assert [(card["name"], card["host"]) for card in made["cards"]] == [("CPU", "rig2")] * 2
    assert made["n_gpu_layers"] == "all"
    assert len(made["tensor_split"]) == 2
    assert abs(made["tensor_split"][0] - made["tensor_split"][1]) <= 1, "alike, as their RAM is"
    assert of(helper(**CPU), **CPU, gpus=[{"uuid": "cpu"}]).cuda_arch == ""


def test_a_helper_without_cards_lends_its_cpu_once() -> None:
    made = backend(helper(**{**CPU, "ram_mib": 31_000}, gpus=[]), **CPU, gpus=[{"uuid": "cpu"}])
    assert made["uuid"] == "cpu@rig2+cpu"
    assert made["tensor_split"] == [LARGE.all_layers]
    assert made["helpers"][0]["cards"] == 1
    assert [card["host"] for card in made["cards"]] == ["rig2"]


def test_a_helper_with_more_ram_gets_more_layers() -> None:
    larger = {**CPU, "ram_mib": 39_000}
    told = [helper(**CPU, gpus=[]), helper("rig3", gpus=[], **larger)]
    small, large = backend(*told, **CPU, gpus=[{"uuid": "cpu"}])["tensor_split"]
    assert small < large


def test_an_unknown_model_is_the_helpers_too() -> None:
    told = helper(**CPU, gpus=[])
    unknown = {"large.gguf": "it has no attention"}
    made = backend(told, **CPU, gpus=[{"uuid": "cpu"}], shapes=unknown, values={"n_gpu_layers": 0})
    assert made["n_gpu_layers"] == "all"
    assert len(made["tensor_split"]) == 1


# --- what cannot be ----------------------------------------------------------------------------


def test_a_model_that_all_of_them_do_not_hold_is_refused_with_what_would() -> None:
    text = fault(helper(uuids=LENT[:1]), gpus=[{"uuid": OWN[0]}], nvidia_smi=smi(OWN[:1]))
    assert text.startswith(f"{LENT[0]}@rig2+{OWN[0]}: Mistral-Small-24B Q4_K_M with ")
    assert "1 P106-100 of rig2 + 1 P106-100" in text
    assert "1 P106-100 more, in the rig or lent by another helper" in text
    assert "llama_server_gpus_except" not in text
    text = fault(helper(**CPU | {"ram_mib": 7800}, gpus=[]), **CPU, gpus=[{"uuid": "cpu"}])
    assert text.startswith("cpu@rig2: ")
    assert "can be planned for on CPU of rig2" in text


def test_cards_of_different_generations_are_kept_apart() -> None:
    text = fault(helper(nvidia_smi=smi(LENT, TURING)))
    assert text.startswith("rig1 has P106-100 (Pascal) and its helper rig2 GTX 1660 Ti 6GB")
    assert text.endswith("Leave these cards of rig2 out, or the helper")
    text = fault(helper(), nvidia_smi=[*smi(OWN[:1]), TURING.format(OWN[1], 2)])
    assert "keep P106-100 (Pascal) from GTX 1660 Ti" in text


def test_a_card_that_llama_cpp_has_no_kernels_for_is_told_with_its_host() -> None:
    line = MAXWELL.format(LENT[0], 1).replace("GTX 970", "P106-100")
    text = fault(helper(nvidia_smi=[line, *smi(LENT)[1:]]))
    assert text.endswith(f"llama_server_gpus_except: [{LENT[0]}] of rig2")


@pytest.mark.parametrize(
    ("helpers", "changes", "said"),
    [
        ([helper(backend="cpu")], {}, "Set llama_cpp_backend: cuda for rig2, or leave it out of"),
        ([helper(), helper()], {}, "the helper rig2 is named twice; name each once"),
        ([helper("rig1")], {}, "rig1 cannot be its own helper; name other hosts"),
        ([helper("rig+2")], {}, "the helper rig+2 has a + or @ in its name"),
        ([helper(uuids=[])], {}, "its helper rig2 has no card to lend: check its risers"),
        (
            [helper()],
            {"found": False},
            "llama_server_gpus has 2 entries, and a rig with llama_server_helpers serves one model",
        ),
        (
            [helper(ram_mib=1400)],
            {},
            "to lend 2 cards rig2 needs 1627 MiB of RAM and has 1400; would fit: 1 of its cards, 2",
        ),
        (
            [helper(uuids=[f"GPU-{n}" for n in range(14)], ram_mib=16_000)],
            {},
            "rig1 and its helpers have 16 cards, and llama.cpp computes on 15 at most: leave out 1",
        ),
        ([helper()], {"network_mib_s": "fast"}, "a whole number of MiB/s, at least 1, not 'fast'"),
        ([helper()], {"network_mib_s": 0}, "a whole number of MiB/s, at least 1, not 0"),
        ([helper()], {"values": {"n_gpu_layers": 9}}, "Leave n_gpu_layers out"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    helpers: list[dict[str, Any]], changes: dict[str, Any], said: str
) -> None:
    assert said in fault(*helpers, **changes)


def test_a_model_that_the_rig_holds_alone_is_said_to_be_slower_with_help() -> None:
    small = {"shapes": {"large.gguf": known_model("8B", "Q4_K_M").as_data()}}
    made = of(helper(), **small)
    assert made.faults == ()
    (note,) = [line for line in made.table.splitlines() if "without help" in line]
    assert "rig1 holds Llama-3.1-8B Q4_K_M without help, on P106-100: helpers cost speed" in note
    assert "They are for models that it does not hold" in note
    assert "without help" not in of(helper()).table
