"""What the gateway knows of each rig."""

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from roles.gateway.filter_plugins.upstreams import faults, memory, rigs

#: What counts where the inventory says nothing, and the rig was not asked.
NOTHING: dict[str, Any] = {
    "app_port": 8080,
    "gateway_rig_speed": 1,
    "llama_server_tuned_file": None,
}
TWO = [
    {"uuid": "GPU-1", "model_name": "stheno", "slots": 1, "n_ctx": 8192},
    {"uuid": "GPU-2", "model_name": "large|8B | l", "slots": 4, "n_ctx": 4096},
]


def of(
    directory: Path, backends: Any = (), remembered: Any = (), **variables: Any
) -> dict[str, Any]:
    """What is found of one rig."""
    host = {"name": "rig1", "url_host": "192.0.2.1", **NOTHING, **variables}
    served = memory([host | {"rig_backends": backends}], {"rig1": remembered})
    (rig,) = rigs([host], served, str(directory))
    return rig


def names(rig: dict[str, Any]) -> list[list[str]]:
    return [model["names"] for model in rig["models"]]


def speeds(rig: dict[str, Any]) -> list[float]:
    return [model["tokens_per_second"] for model in rig["models"]]


def test_a_rig_has_its_address_its_speed_and_a_model_for_each_card(tmp_path: Path) -> None:
    assert of(tmp_path, TWO, app_port="81", gateway_rig_speed=1.5) == {
        "name": "rig1",
        "address": "192.0.2.1:81",
        "speed": 1.5,
        "models": [
            {"names": ["stheno"], "slots": 1, "tokens_per_second": 0},
            {"names": ["large", "8B", "l"], "slots": 4, "tokens_per_second": 0},
        ],
    }
    assert of(tmp_path)["models"] == []


def test_a_name_may_be_a_number(tmp_path: Path) -> None:
    assert names(of(tmp_path, [TWO[0] | {"model_name": 8}])) == [["8"]]


def test_of_a_rig_that_does_not_answer_the_gateway_knows_what_it_served(tmp_path: Path) -> None:
    hosts: list[dict[str, Any]] = [
        {"name": "rig1", "rig_backends": TWO},
        {"name": "rig2", "rig_backends": []},
        {"name": "rig3", "rig_backends": []},
    ]
    former = [{"uuid": "GPU-9", "model_name": "small", "slots": 2}]
    kept = memory(hosts, {"rig1": former, "rig2": former, "rig9": former})
    assert kept == {
        "rig1": [{name: one[name] for name in ("uuid", "model_name", "slots")} for one in TWO],
        "rig2": former,
        "rig3": [],
    }
    assert names(of(tmp_path, [], kept["rig2"])) == [["small"]]
    assert names(of(tmp_path, TWO[:1], kept["rig2"])) == [["stheno"]]


def test_a_card_has_the_speed_that_was_measured(tmp_path: Path) -> None:
    (tmp_path / "rig1.yml").write_text(
        "cards: {GPU-1: {speeds: {decode: 31.5, prompt: 300}}, GPU-2: {speeds: {prompt: 3}}}"
    )
    assert speeds(of(tmp_path, [*TWO, TWO[0] | {"uuid": "cpu"}])) == [31.5, 0, 0]
    other = tmp_path / "other.yml"
    other.write_text("cards: {GPU-2: {speeds: {decode: 7}}}")
    rig = of(tmp_path, TWO, llama_server_tuned_file=str(other))
    assert speeds(rig) == [0, 7]


@pytest.mark.parametrize("text", ["", "cards:", "cards: {GPU-1: }", "cards: {GPU-1: {speeds: }}"])
def test_without_a_measurement_there_is_no_speed(tmp_path: Path, text: str) -> None:
    assert speeds(of(tmp_path, TWO)) == [0, 0]
    (tmp_path / "rig1.yml").write_text(text)
    assert speeds(of(tmp_path, TWO)) == [0, 0]


@pytest.mark.parametrize("text", ["[]]", "- cards", "cards: 5", "cards: {GPU-1: 31.5}"])
def test_a_file_of_speeds_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rig1.yml"
    file.write_text(text)
    with pytest.raises(
        AnsibleFilterError, match=r"is not as playbooks/tune\.yml writes it; remove"
    ):
        of(tmp_path, TWO)


def upstream(address: str, *names: list[str]) -> dict[str, Any]:
    return {"address": address, "models": [{"names": each} for each in names]}


def test_nothing_is_wrong_with_rigs_that_agree() -> None:
    both = [["a", "first"], ["b"], ["b"]]
    assert faults([upstream("one:1", *both), upstream("two:1", *both[:1])]) == []


def test_a_rig_without_a_model_is_named() -> None:
    rigs = [upstream("one:1"), upstream("two:1", ["a"]), {"name": "rig3", "address": "three:1"}]
    (fault,) = faults(rigs)
    assert fault.startswith("What one:1, rig3 serves is not known here")
    assert "Run playbooks/site.yml" in fault


@pytest.mark.parametrize("name", ["", "-a", "a;b", "ä", "a\n"])
def test_a_name_that_cannot_be_used_is_shown(name: str) -> None:
    (fault,) = faults([upstream("one:1", ["a", name])])
    assert fault.startswith(f"A model has a name that cannot be used ({name})")


@pytest.mark.parametrize(
    "served",
    [
        [["a"], ["b", "a"]],
        [["a", "b"], ["b", "a"]],
        [["a"], ["a", "b"]],
        [["a", "a"]],
    ],
)
def test_a_name_of_two_models_is_told(served: list[list[str]]) -> None:
    (fault,) = faults([upstream("one:1", *served)])
    assert fault.startswith("A name is given to two models: a, ")
    assert "the same names in the same order" in fault
