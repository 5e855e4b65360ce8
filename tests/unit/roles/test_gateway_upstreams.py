"""What the gateway knows of each rig from the inventory."""

from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from roles.gateway.filter_plugins.upstreams import faults, rigs

#: What counts where the inventory says nothing.
NOTHING = {
    "app_port": 8080,
    "gateway_rig_speed": 1,
    "llama_server_gpus": [],
    "llama_server_model_name": "",
    "llama_server_slots": 1,
    "llama_server_tuned_file": None,
}
TWO = [{"uuid": "GPU-1"}, {"uuid": "GPU-2"}]


def of(directory: Path, file: str = "a.gguf", **variables: Any) -> dict[str, Any]:
    """What is found of one rig."""
    host = {"name": "rig1", "url_host": "192.0.2.1", **NOTHING, **variables}
    (rig,) = rigs([host], {"rig1": file}, str(directory))
    return rig


def names(rig: dict[str, Any]) -> list[list[str]]:
    return [model["names"] for model in rig["models"]]


def speeds(rig: dict[str, Any]) -> list[float]:
    return [model["tokens_per_second"] for model in rig["models"]]


def test_a_rig_has_its_address_its_speed_and_a_model_for_each_card(tmp_path: Path) -> None:
    assert of(tmp_path, llama_server_gpus=TWO[:1], app_port="81", gateway_rig_speed=1.5) == {
        "name": "rig1",
        "address": "192.0.2.1:81",
        "speed": 1.5,
        "models": [{"names": ["a"], "slots": 1, "tokens_per_second": 0}],
    }
    assert of(tmp_path)["models"] == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("", [["a"], ["b"]]),
        (None, [["a"], ["b"]]),
        ("stheno", [["stheno"], ["stheno"]]),
        ("stheno | s | 8B", [["stheno", "s", "8B"]] * 2),
        ("one, two|2", [["one"], ["two", "2"]]),
        ("one,", [["one"], ["b"]]),
        (",two", [["a"], ["two"]]),
        ("one,two,three", [["one"], ["two"]]),
        (8, [["8"], ["8"]]),
    ],
)
def test_a_card_s_model_is_called(tmp_path: Path, name: object, found: list[list[str]]) -> None:
    cards = [TWO[0], TWO[1] | {"model_file": "b.gguf"}]
    rig = of(tmp_path, llama_server_gpus=cards, llama_server_model_name=name)
    assert names(rig) == found


def test_what_a_card_says_goes_before_the_rig(tmp_path: Path) -> None:
    cards = [TWO[0], TWO[1] | {"model_name": "own|mine", "slots": 4}]
    rig = of(tmp_path, llama_server_gpus=cards, llama_server_model_name="x,y", llama_server_slots=2)
    assert names(rig) == [["x"], ["own", "mine"]]
    assert [model["slots"] for model in rig["models"]] == [2, 4]


def test_more_cards_than_names_have_their_files_names(tmp_path: Path) -> None:
    cards = [*TWO, {"uuid": "GPU-3"}]
    rig = of(tmp_path, "a.b.gguf", llama_server_gpus=cards, llama_server_model_name="x,y")
    assert names(rig) == [["x"], ["y"], ["a.b"]]


def test_a_card_has_the_speed_that_was_measured(tmp_path: Path) -> None:
    (tmp_path / "rig1.yml").write_text(
        "cards: {GPU-1: {speeds: {decode: 31.5, prompt: 300}}, GPU-2: {speeds: {prompt: 3}}}"
    )
    assert speeds(of(tmp_path, llama_server_gpus=[*TWO, {}])) == [31.5, 0, 0]
    other = tmp_path / "other.yml"
    other.write_text("cards: {GPU-2: {speeds: {decode: 7}}}")
    rig = of(tmp_path, llama_server_gpus=TWO, llama_server_tuned_file=str(other))
    assert speeds(rig) == [0, 7]


@pytest.mark.parametrize("text", ["", "cards:", "cards: {GPU-1: }", "cards: {GPU-1: {speeds: }}"])
def test_without_a_measurement_there_is_no_speed(tmp_path: Path, text: str) -> None:
    assert speeds(of(tmp_path, llama_server_gpus=TWO)) == [0, 0]
    (tmp_path / "rig1.yml").write_text(text)
    assert speeds(of(tmp_path, llama_server_gpus=TWO)) == [0, 0]


@pytest.mark.parametrize("text", ["[]]", "- cards", "cards: 5", "cards: {GPU-1: 31.5}"])
def test_a_file_of_speeds_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rig1.yml"
    file.write_text(text)
    with pytest.raises(
        AnsibleFilterError, match=r"is not as playbooks/tune\.yml writes it; remove"
    ):
        of(tmp_path, llama_server_gpus=TWO)


def test_a_card_that_is_no_mapping_is_told(tmp_path: Path) -> None:
    with pytest.raises(AnsibleFilterError, match="rig1 has 'GPU-1'; write each card as `uuid:"):
        of(tmp_path, llama_server_gpus=["GPU-1"])


def upstream(address: str, *names: list[str]) -> dict[str, Any]:
    return {"address": address, "models": [{"names": each} for each in names]}


def test_nothing_is_wrong_with_rigs_that_agree() -> None:
    both = [["a", "first"], ["b"], ["b"]]
    assert faults([upstream("one:1", *both), upstream("two:1", *both[:1])]) == []


def test_a_rig_without_a_model_is_named() -> None:
    (fault,) = faults([upstream("one:1"), upstream("two:1", ["a"]), {"address": "three:1"}])
    assert fault.startswith("one:1, three:1 serves no model or one with a name that cannot be used")
    assert "Set llama_server_gpus and llama_server_model_name" in fault


@pytest.mark.parametrize("name", ["", "-a", "a;b", "ä", "a\n"])
def test_a_name_that_cannot_be_used_is_shown(name: str) -> None:
    (fault,) = faults([upstream("one:1", ["a", name])])
    assert fault.startswith("A rig serves no model or one with a name that cannot be used")
    assert f"({name})" in fault


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
