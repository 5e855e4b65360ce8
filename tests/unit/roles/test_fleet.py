"""What one host of the inventory knows of another."""

from pathlib import Path

import pytest
from heartcode_models.errors import ModelError

from plugins.filter.fleet import address, model_file, models, peers

NOTHING = {"name": "", "quantisation": "", "file": "", "src": ""}
CATALOGUE = """
[counting]
title = "A model that counts"
repository = "people/Counting-GGUF"
revision = "main"
file = "files/Counting-{quantisation}.gguf"
quantisations = ["Q4_K_M", "Q6_K"]
licence = "mit"
context = 4096
"""


@pytest.fixture
def catalogue(tmp_path: Path) -> str:
    file = tmp_path / "catalogue.toml"
    file.write_text(CATALOGUE)
    return str(file)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "rig1"),
        ({"ansible_host": "192.0.2.1"}, "192.0.2.1"),
        ({"ansible_host": "192.0.2.1", "heartcode_address": "rig1.lan"}, "rig1.lan"),
    ],
)
def test_a_host_is_reached_under(variables: dict[str, str], expected: str) -> None:
    assert address("rig1", {"rig1": variables, "rig2": {"heartcode_address": "no"}}) == expected


def test_the_peers_of_a_host_are_all_others_once() -> None:
    hostvars: dict[str, dict[str, str]] = {"a": {}, "b": {"ansible_host": "192.0.2.1"}, "c": {}}
    groups = {"rigs": ["c", "b", "a"], "gateways": ["a"], "all": ["d"]}
    assert peers("c", groups, hostvars) == ["192.0.2.1", "a"]
    assert peers("a", {"gateways": ["a"]}, hostvars) == []


@pytest.mark.parametrize("nothing", [{}, {"model_name": "", "model_more": []}, {"model_src": None}])
def test_what_is_not_said_of_a_model_is_empty(nothing: dict[str, object]) -> None:
    assert models(nothing) == [NOTHING]


def test_further_models_come_after_the_first() -> None:
    more = [{"name": "counting", "quantisation": "Q6_K"}, {"file": "b.gguf", "src": None}]
    assert models({"model_file": "a.gguf", "model_src": "/x/a.gguf", "model_more": more}) == [
        NOTHING | {"file": "a.gguf", "src": "/x/a.gguf"},
        NOTHING | {"name": "counting", "quantisation": "Q6_K"},
        NOTHING | {"file": "b.gguf"},
    ]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ""),
        ({"model_file": "a.gguf"}, "a.gguf"),
        ({"model_name": "counting", "model_quantisation": "q6_k"}, "Counting-Q6_K.gguf"),
    ],
)
def test_a_model_of_the_catalogue_has_its_file(
    catalogue: str, variables: dict[str, str], expected: str
) -> None:
    assert model_file(variables, catalogue) == expected


def test_without_another_catalogue_it_is_ours() -> None:
    stheno = {"model_name": "stheno", "model_quantisation": "Q4_K_M"}
    assert model_file(stheno) == "Llama-3.1-8B-Stheno-v3.4-Q4_K_M.gguf"


def test_a_model_that_does_not_exist_is_told(catalogue: str) -> None:
    with pytest.raises(ModelError, match="no model 'countin'; the catalogue has counting"):
        model_file({"model_name": "countin"}, catalogue)
