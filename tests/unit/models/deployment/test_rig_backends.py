"""What each backend of a rig serves, from its cards and an inventory that says little."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from heartcode_models.catalogue.lock import Pin
from heartcode_models.deployment import candidates, role
from heartcode_models.deployment.rig_backends import Deployment, deploy
from heartcode_models.planner.known_models import known_model

ROOT = Path(__file__).parents[4]
A, B, C = (f"GPU-10600000-0000-4000-8000-00000000000{n}" for n in range(1, 4))
P106 = "{}, NVIDIA P106-100, 6144, 69, 1, 1, 00000000:0{}:00.0, 6.1"
P104 = "{}, NVIDIA P104-100, 8192, 76, 1, 1, 00000000:0{}:00.0, 6.1"
MIXED = [P106.format(A, 1), P104.format(B, 2)]
CATALOGUE = """
[small]
title = "A small one"
repository = "someone/small"
revision = "main"
file = "small-{quantisation}.gguf"
quantisations = ["Q4_K_M", "Q6_K"]
licence = "mit"
context = 8192
shape = "3B"

[other]
title = "One whose shape is not built in"
repository = "someone/other"
revision = "main"
file = "other-{quantisation}.gguf"
quantisations = ["Q4_K_M", "Q8_0"]
licence = "mit"
context = 8192
"""


def question(name: str = "", quantisation: str = "", file: str = "", src: str = "") -> Any:
    return {"name": name, "quantisation": quantisation, "file": file, "src": src}


STHENO = question("stheno")


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    file = tmp_path / "catalogue.toml"
    file.write_text(CATALOGUE)
    return str(file)


def of(*gpus: dict[str, Any] | str, **changes: Any) -> Deployment:
    host = {
        "name": "rig1",
        "ram_mib": 7800,
        "cores": 2,
        "nvidia_smi": MIXED,
        "bus": [],
        "gpus": [{"uuid": gpu} if isinstance(gpu, str) else gpu for gpu in gpus or (A, B)],
        "found": False,
        "former": [],
        "backend": "cuda",
        "values": {},
        "model_name": "",
        "models": [STHENO],
        "shapes": {},
        "catalogue": str(ROOT / "models/catalogue.toml"),
        "lock": str(ROOT / "models/lock.json"),
        # Nobody listens there.
        "endpoint": "http://127.0.0.1:9",
        "token": "",
    }
    return deploy(host | changes)


def backends(*gpus: dict[str, Any] | str, **changes: Any) -> list[dict[str, Any]]:
    made = of(*gpus, **changes)
    assert made.faults == ()
    return [dict(backend) for backend in made.backends]


def each(name: str, *gpus: dict[str, Any] | str, **changes: Any) -> list[Any]:
    return [backend[name] for backend in backends(*gpus, **changes)]


# --- chosen ------------------------------------------------------------------------------------


def test_each_card_gets_the_best_file_that_it_holds_under_one_name() -> None:
    made = of()
    files = [backend["model_file"] for backend in made.backends]
    assert [file.removeprefix("Llama-3.1-8B-Stheno-v3.4-") for file in files] == [
        "Q4_K_M.gguf",
        "Q6_K.gguf",
    ]
    assert {backend["model_name"] for backend in made.backends} == {"stheno"}
    assert made.models == [question("stheno", "Q4_K_M"), question("stheno", "Q6_K")]
    assert made.table.startswith("RIG ")
    assert made.notes == ()


def test_every_setting_of_a_backend_is_said() -> None:
    (backend, _) = backends()
    assert set(backend) == {
        *("uuid", "model_file", "model_name", "n_ctx", "slots", "kv_type", "n_batch", "n_ubatch"),
        *("n_gpu_layers", "n_threads", "cache_ram_mib", "load_mode", "card"),
    }
    assert backend["n_gpu_layers"] == "all"
    assert backend["card"] == {
        "name": "P106-100",
        "vram_mib": 6075,
        "link": 250_000_000,
        "capability": "61",
    }


def test_the_file_of_most_cards_is_the_rig_s() -> None:
    smi = [P106.format(A, 1), P104.format(B, 2), P104.format(C, 3)]
    made = of(A, B, C, nvidia_smi=smi)
    assert [one["quantisation"] for one in made.models] == ["Q6_K", "Q4_K_M"]


def test_what_is_set_stays_and_goes_from_the_card_to_the_rig() -> None:
    values = {"n_ctx": "4096", "slots": 1, "kv_type": "", "n_batch": None}
    first, second = backends(A, {"uuid": B, "slots": 3, "extra_args": "-v"}, values=values)
    assert (first["n_ctx"], first["slots"]) == (4096, 1)
    assert (second["n_ctx"], second["slots"], second["extra_args"]) == (4096, 3, "-v")
    assert first["kv_type"] == second["kv_type"] == "q8_0"


def test_a_quantisation_that_is_set_is_every_card_s_and_part_of_the_name() -> None:
    made = of(models=[question("stheno", "q4_k_m")])
    assert made.models == [question("stheno", "Q4_K_M")]
    assert {one["model_name"] for one in made.backends} == {"Llama-3.1-8B-Stheno-v3.4-Q4_K_M"}


def test_a_card_may_have_a_file_of_its_own() -> None:
    own = {"uuid": B, "model_file": "Llama-3.1-8B-Stheno-v3.4-Q5_K_M.gguf"}
    asked = [question("stheno", "Q4_K_M"), question("stheno", "Q5_K_M")]
    made = of(A, own, models=asked)
    assert [one["model_name"][-6:] for one in made.backends] == ["Q4_K_M", "Q5_K_M"]
    assert made.models == asked
    # Of one that is not brought the name alone is known, and it has to lie on the rig.
    made = of(A, own, models=asked[:1])
    assert made.models == [asked[0], question(file=own["model_file"])]


def test_what_the_inventory_brings_for_later_comes_too() -> None:
    more = question("lumimaid", "Q4_K_M")
    assert of(models=[STHENO, more]).models[-1] == more


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("rp", ["rp", "rp"]),
        ("rp | 8B", ["rp | 8B"] * 2),
        ("one, two|2", ["one", "two|2"]),
        ("one,", ["one", "stheno"]),
        ("one,two,three", ["one", "two"]),
        (8, ["8", "8"]),
    ],
)
def test_a_name_that_is_set_is_that_of_all_or_of_each(name: object, names: list[str]) -> None:
    assert each("model_name", model_name=name) == names
    assert each("model_name", {"uuid": A, "model_name": "own"}, B, model_name=name)[0] == "own"


def test_a_second_run_chooses_the_same_without_a_card_that_is_gone() -> None:
    first = backends()
    former = json.loads(json.dumps(first))
    assert backends(former=former) == first
    assert backends(former=former, nvidia_smi=MIXED[:1]) == first, "one has dropped out"
    assert backends(former=former, nvidia_smi=[]) == first, "the driver does not answer"


def test_a_card_that_was_gone_before_anything_was_remembered_spoils_no_plan() -> None:
    made = of(A, B, C)
    assert (made.faults, made.notes) == ((), ())
    first, _, gone = made.backends
    assert gone == {**first, "uuid": C}


def test_what_the_cpu_had_is_no_card_s_memory() -> None:
    served = backends(A, B, backend="cpu", ram_mib=15_600)
    assert {one["card"]["name"] for one in served} == {"CPU"}
    made = of(A, B, former=served, nvidia_smi=MIXED[:1])
    assert [one["card"]["name"] for one in made.backends] == ["P106-100", "P106-100"]


# --- other cards, and none ---------------------------------------------------------------------


def test_before_there_is_a_driver_known_cards_are_planned_by_their_ids() -> None:
    bus = ["0000:01:00.0 0x1c07 1 2.5 GT/s PCIe", "0000:02:00.0 0x1b87 1 2.5 GT/s PCIe"]
    gpus = ["PCI-0000:01:00.0", "PCI-0000:02:00.0"]
    made = backends(*gpus, nvidia_smi=[], bus=bus)
    assert [one["model_file"][-11:] for one in made] == ["Q4_K_M.gguf", "4-Q6_K.gguf"]
    assert [one["uuid"] for one in made] == gpus


def test_a_card_whose_memory_is_not_known_yet_waits_for_the_driver() -> None:
    made = of("PCI-0000:01:00.0", nvidia_smi=[], bus=["0000:01:00.0 0x1f08 1 2.5 GT/s PCIe"])
    assert made.faults == ()
    assert made.table == ""
    (note,) = made.notes
    assert note.startswith("the memory of PCI-0000:01:00.0 is known when the driver is installed")
    (backend,) = made.backends
    assert backend["model_file"].endswith("Q4_K_M.gguf"), "the smallest fits if any does"
    assert (backend["n_ctx"], backend["slots"], backend["n_threads"]) == (4096, 1, 2)


def test_llama_cpp_is_built_for_what_is_in_the_rig() -> None:
    turing = f"{C}, NVIDIA GeForce GTX 1660 Ti, 6144, 200, 3, 1, 00000000:03:00.0, 7.5"
    assert of().cuda_arch == "61-real"
    made = of(A, C, nvidia_smi=[*MIXED, turing])
    assert made.cuda_arch == "61-real;75-real"
    # Also before there is a driver, whatever memory the card has.
    bus = ["0000:01:00.0 0x1c07 1 2.5 GT/s PCIe", "0000:02:00.0 0x2182 1 2.5 GT/s PCIe"]
    made = of("PCI-0000:01:00.0", "PCI-0000:02:00.0", nvidia_smi=[], bus=bus)
    assert made.cuda_arch == "61-real;75-real"
    assert of("cpu", backend="cpu", ram_mib=15_600).cuda_arch == ""


def test_a_card_that_llama_cpp_has_no_kernels_for_is_told() -> None:
    maxwell = f"{C}, NVIDIA GeForce GTX 970, 4096, 60, 3, 16, 00000000:03:00.0, 5.2"
    (fault,) = of(A, C, nvidia_smi=[*MIXED, maxwell]).faults
    assert fault.startswith(f"{C} (GTX 970 4GB) has compute capability 5.2, and")
    assert fault.endswith(f"llama_server_gpus_except: [{C}]")


def test_the_cpu_has_the_host_s_ram() -> None:
    (backend,) = backends("cpu", backend="cpu", nvidia_smi=[], cores=16, ram_mib=15_600)
    assert backend["n_gpu_layers"] == 0
    assert backend["n_threads"] == 16
    assert backend["model_file"].endswith("Q6_K.gguf")
    assert "n_gpu_layers 0: the CPU computes" in of("cpu", backend="cpu", ram_mib=15_600).table
    made = of("cpu", backend="cpu", nvidia_smi=[], ram_mib=3900)
    (fault,) = made.faults
    assert "can be planned for on CPU" in fault


# --- what cannot be ----------------------------------------------------------------------------


def test_a_model_that_a_card_does_not_hold_is_refused_with_what_would_fit() -> None:
    made = of(models=[question("stheno", "Q6_K")])
    (fault,) = made.faults
    assert fault.startswith(f"{A}: Llama-3.1-8B Q6_K with ")
    assert "Would fit: " in fault
    assert fault.endswith(f"llama_server_gpus_except: [{A}]")
    assert made.backends == ()
    assert "nothing fits" in made.table


def test_what_contradicts_itself_is_told() -> None:
    assert of(values={"n_ctx": "many"}).faults == (
        "inventory: n_ctx must be a whole number, not 'many'",
    )
    assert of({"uuid": A, "slots": 0}).faults == (f"card {A}: slots must be at least 1, not 0",)
    (fault,) = of(values={"n_gpu_layers": "auto"}).faults
    assert fault == "inventory: n_gpu_layers must be all or a whole number, not 'auto'"
    (fault,) = of(models=[question()]).faults
    assert fault.startswith("there is no model: set model_name (llama-70b, ")
    (fault,) = of(models=[question("sthenno")]).faults
    assert fault.startswith("there is no model 'sthenno'; the catalogue has llama-70b, lumimaid,")


# --- models ------------------------------------------------------------------------------------


def test_the_catalogue_s_own_quantisations_are_chosen_from(catalogue: str) -> None:
    made = of(models=[question("small")], catalogue=catalogue)
    assert made.models == [question("small", "Q6_K")]


def test_of_a_model_that_nobody_knows_modest_values_count(catalogue: str) -> None:
    made = of(models=[question("other", "Q8_0")], catalogue=catalogue, values={"n_ctx": 2048})
    assert made.faults == ()
    (note,) = made.notes
    assert note.startswith("the planner does not know the model (someone/other: ")
    assert {one["n_ctx"] for one in made.backends} == {2048}
    assert {one["slots"] for one in made.backends} == {1}
    # But which of its files fits it cannot be told.
    (fault,) = of(models=[question("other")], catalogue=catalogue).faults
    assert fault.endswith("Set model_quantisation (Q4_K_M, Q8_0)")


def test_what_serves_goes_on_as_it_is_when_the_hub_does_not_answer(catalogue: str) -> None:
    served = [
        {"uuid": A, "model_file": "other-Q4_K_M.gguf", "n_ctx": 6144, "slots": 3, "n_threads": 1},
        {"uuid": B, "model_file": "other-Q8_0.gguf", "n_ctx": 7168, "slots": 2, "n_threads": 1},
    ]
    made = of(models=[question("other")], catalogue=catalogue, former=served)
    assert made.faults == ()
    assert [(one["model_file"], one["n_ctx"], one["slots"]) for one in made.backends] == [
        (one["model_file"], one["n_ctx"], one["slots"]) for one in served
    ]
    # Unless somebody wants something else.
    made = of(models=[question("other")], catalogue=catalogue, former=served, values={"slots": 1})
    assert [one["slots"] for one in made.backends] == [1, 1]


def test_a_header_is_asked_for_once(
    catalogue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEARTCODE_CACHE_DIR", str(tmp_path))
    asked: list[tuple[str, str]] = []

    def read(url: str, *, token: str) -> str:
        asked.append((url, token))
        return "header"

    pin = Pin(asked="main", commit="c" * 40, sha256="a" * 64, size=1)
    monkeypatch.setattr(candidates, "pinned", lambda *_: (pin, True))
    monkeypatch.setattr(candidates, "read_header", read)
    monkeypatch.setattr(candidates, "model_of", lambda _: known_model("3B", "Q6_K"))
    for _ in range(2):
        made = of(models=[question("other", "Q8_0")], catalogue=catalogue, token="hf_x")  # noqa: S106
        assert {one["slots"] for one in made.backends} == {4}
    assert [token for _, token in asked] == ["hf_x"]
    assert asked[0][0].endswith(f"/resolve/{'c' * 40}/other-Q8_0.gguf")


def test_a_model_on_the_rig_is_known_by_what_the_rig_says_of_it() -> None:
    asked = [question(file="mine.gguf")]
    shape = known_model("3B", "Q6_K").as_data()
    made = of(models=asked, shapes={"mine.gguf": json.loads(json.dumps(shape))})
    assert {one["slots"] for one in made.backends} == {4}
    assert made.models == asked
    made = of(models=asked, shapes={"mine.gguf": "mine.gguf has no attention"})
    assert "(mine.gguf has no attention)" in made.notes[0]


def test_the_role_gets_an_answer_for_each_rig(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = [{"name": "one"}, {"name": "two", "values": {"n_ctx": "x"}}]
    monkeypatch.setattr("json.load", lambda _: hosts)
    monkeypatch.setattr("heartcode_models.deployment.role.deploy", lambda host: of(**host))
    assert role.main() == 0
    told = json.loads(capsys.readouterr().out)
    assert told["one"]["backends"][0]["uuid"] == A
    assert told["two"]["faults"] == ["inventory: n_ctx must be a whole number, not 'x'"]


# --- groups ------------------------------------------------------------------------------------

SIX = [f"GPU-10600000-0000-4000-8000-00000000000{n}" for n in range(6)]
SIX_P106 = [P106.format(uuid, n + 1) for n, uuid in enumerate(SIX)]
#: A file that is given, as the rig says what it is.
LARGE: dict[str, Any] = {
    "models": [question(file="large.gguf")],
    "shapes": {"large.gguf": known_model("24B", "Q4_K_M").as_data()},
    "nvidia_smi": SIX_P106,
}


def test_a_model_that_no_card_holds_gets_groups_of_the_cards_that_are_found() -> None:
    made = of(*SIX, found=True, **LARGE)
    assert made.faults == ()
    assert [one["uuid"] for one in made.backends] == ["+".join(SIX[:3]), "+".join(SIX[3:])]
    assert {tuple(one["tensor_split"]) for one in made.backends} == {(14, 14, 13)}
    assert {one["n_gpu_layers"] for one in made.backends} == {"all"}
    first = made.backends[0]
    assert "card" not in first
    assert [card["name"] for card in first["cards"]] == ["P106-100"] * 3
    assert "2 x 3 P106-100" in made.table
    # A second run, which finds them as they serve, chooses the same.
    again = of(*SIX, found=True, former=made.backends, **LARGE)
    assert again.backends == made.backends
    # And so it does where two cards do not answer any more, one of each group.
    gone = {**LARGE, "nvidia_smi": SIX_P106[1:5]}
    assert of(*SIX, found=True, former=made.backends, **gone).backends == made.backends


def test_a_model_that_each_card_holds_makes_no_groups_of_what_is_found() -> None:
    assert of(A, B, found=True).backends == of(A, B).backends


def test_cards_that_are_left_are_named() -> None:
    made = of(*SIX[:5], found=True, **LARGE)
    assert [one["uuid"] for one in made.backends] == ["+".join(SIX[:3])]
    (note,) = made.notes
    assert note.startswith(f"cards {SIX[3]}, {SIX[4]} are left and serve nothing here: ")
    assert "larger groups (gpus in llama_server_gpus)" in note


def test_groups_and_single_cards_serve_models_of_their_own_side_by_side() -> None:
    gpus: list[dict[str, Any]] = [
        {"uuid": "+".join(SIX[3:]), "model_file": "large.gguf", "slots": 2},
        {"uuid": SIX[0]},
        {"uuid": "+".join(SIX[1:3])},
    ]
    made = backends(*gpus, **{**LARGE, "models": [question("stheno", "Q4_K_M")]})
    assert [one["model_file"] for one in made] == [
        "large.gguf",
        *["Llama-3.1-8B-Stheno-v3.4-Q4_K_M.gguf"] * 2,
    ]
    assert made[0]["slots"] == 2
    assert [len(one.get("tensor_split", [0])) for one in made] == [3, 1, 2]
    assert sum(made[0]["tensor_split"]) == 41


def test_a_group_of_several_generations_is_refused() -> None:
    turing = f"{C}, NVIDIA GeForce GTX 1660 Ti, 6144, 200, 3, 1, 00000000:03:00.0, 7.5"
    (fault,) = of(f"{A}+{C}", B, nvidia_smi=[*MIXED, turing]).faults
    assert fault.startswith(f"the group {A}+{C} of llama_server_gpus mixes cards of different")
    assert "keep P106-100 (Pascal) from" in fault


def test_a_model_that_needs_more_than_the_rig_has_is_refused() -> None:
    for gpus, found in ((SIX[:2], True), (["+".join(SIX[:2])], False)):
        (fault,) = of(*gpus, found=found, **LARGE).faults
        assert fault.startswith(f"{SIX[0]}+{SIX[1]}: Mistral-Small-24B Q4_K_M with ")
        assert "a group of 3 P106-100" in fault
        assert "llama_server_gpus_except" not in fault
    # Beside others the group may be left out.
    (fault,) = of(f"{SIX[0]}+{SIX[1]}", "+".join(SIX[2:]), **LARGE).faults
    assert fault.endswith(
        f"Or leave the cards out: llama_server_gpus_except: [{', '.join(SIX[:2])}]"
    )
    # A card that is named alone is not put into a group behind its owner's back.
    (fault, *_) = of(SIX[0], "+".join(SIX[1:]), **LARGE).faults
    assert fault.startswith(f"{SIX[0]}: ")


def test_before_there_is_a_driver_groups_are_planned_by_places() -> None:
    places = [f"0000:0{n}:00.0" for n in range(1, 4)]
    bus = [f"{place} 0x1c07 1 2.5 GT/s PCIe" for place in places]
    cards = [f"PCI-{place}" for place in places]
    made = of(*cards, found=True, **{**LARGE, "nvidia_smi": []}, bus=bus)
    assert [one["uuid"] for one in made.backends] == ["+".join(cards)]
    assert made.waits
    assert made.cuda_arch == "61-real"


def test_layers_of_a_model_that_nobody_knows_are_shared_out_by_memory(catalogue: str) -> None:
    made = of(f"{A}+{B}", models=[question("other", "Q8_0")], catalogue=catalogue)
    assert made.backends[0]["tensor_split"] == [6075, 8116]


def test_groups_stay_where_the_hub_does_not_answer(catalogue: str) -> None:
    served = [
        {"uuid": f"{B}+{A}", "model_file": "other-Q8_0.gguf", "n_ctx": 6144, "tensor_split": [9, 7]}
    ]
    smi = [*MIXED, P106.format(C, 3)]
    asked = {"models": [question("other", "Q8_0")], "catalogue": catalogue, "nvidia_smi": smi}
    made = of(B, A, C, found=True, former=served, **asked)
    assert [one["uuid"] for one in made.backends] == [f"{B}+{A}", C]
    assert made.backends[0]["tensor_split"] == [9, 7]


def test_the_cpu_computes_for_a_group_as_for_a_card() -> None:
    of_a_group = backends(f"{A}+{B}", backend="cpu", ram_mib=15_600)
    (alone,) = backends(A, backend="cpu", ram_mib=15_600)
    assert of_a_group == [{**alone, "uuid": f"{A}+{B}"}]
