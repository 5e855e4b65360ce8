"""What one host of the inventory knows of another."""

from pathlib import Path
from typing import Any

import pytest
from heartcode_models.errors import ModelError
from jinja2 import StrictUndefined

from plugins.filter.fleet import (
    address,
    facts,
    hosts,
    mirrors,
    model_file,
    models,
    peers,
    questions,
    silent,
)

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


def test_of_each_host_there_is_what_the_inventory_says_or_what_counts_without() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "b": {"ansible_host": "fd00::1", "app_port": "81", "enabled": False, "other": 1},
        "a": {"app_port": None},
    }
    assert hosts(["b", "a"], hostvars, {"app_port": 8080, "enabled": True}) == [
        {
            "name": "b",
            "address": "fd00::1",
            "url_host": "[fd00::1]",
            "app_port": "81",
            "enabled": False,
        },
        {"name": "a", "address": "a", "url_host": "a", "app_port": None, "enabled": True},
    ]
    assert hosts([], {}, {"app_port": 8080}) == []


def test_what_only_a_host_s_own_roles_know_is_not_said() -> None:
    # What Ansible gives for a variable whose template has a name that it does not know.
    hostvars = {"a": {"app_port": StrictUndefined(name="base_port"), "noted": StrictUndefined()}}
    assert hosts(["a"], hostvars, {"app_port": 8080})[0]["app_port"] == 8080
    assert facts(["a"], hostvars, "noted") == [{"name": "a"}]


def test_hosts_without_facts_are_silent() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "c": {"ansible_facts": {}},
        "b": {"ansible_facts": {"distribution": "Debian"}},
        "a": {},
    }
    assert silent(["c", "b", "a"], hostvars) == ["a", "c"]


def test_a_host_that_has_noted_nothing_is_named() -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "a": {"noted": {"name": "a", "ram": 4}},
        "b": {"ram": 4},
    }
    assert facts(["b", "a"], hostvars, "noted") == [{"name": "b"}, {"name": "a", "ram": 4}]


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
        model_file({"model_name": "countin", "model_quantisation": "Q6_K"}, catalogue)


def test_a_quantisation_that_the_planner_chooses_is_no_file_yet(catalogue: str) -> None:
    assert model_file({"model_name": "counting"}, catalogue) == ""


def test_what_the_role_rig_has_decided_goes_before_what_the_inventory_asks_for() -> None:
    decided = [NOTHING | {"name": "counting", "quantisation": "Q6_K"}]
    assert models({"model_name": "counting", "rig_models": decided}) == decided
    assert models({"model_name": "counting", "rig_models": []})[0]["quantisation"] == ""


def test_the_fleet_fetches_each_model_once() -> None:
    q6_k = {"name": "counting", "quantisation": "Q6_K"}
    hostvars: dict[str, dict[str, Any]] = {
        "a": {"model_name": "counting", "model_quantisation": "Q4_K_M", "model_more": [q6_k]},
        "b": {"model_name": "counting", "model_quantisation": "Q6_K"},
        "c": {"model_file": "there.gguf", "model_more": [{"file": "c.gguf", "src": "/x/c.gguf"}]},
        "d": {},
    }
    assert [
        (found["host"], found["model"]["quantisation"], found["model"]["file"])
        for found in questions(["a", "b", "c", "d"], hostvars)
    ] == [("a", "Q4_K_M", ""), ("a", "Q6_K", ""), ("c", "", "c.gguf")]


def test_models_come_from_the_mirrors_of_other_gateways() -> None:
    def gateway(name: str, port: object = 4001, *, enabled: object = True) -> dict[str, Any]:
        return {
            "name": name,
            "url_host": f"{name}.lan",
            "model_mirror_enabled": enabled,
            "model_mirror_port": port,
        }

    gateways = [gateway("b", "4444"), gateway("a"), gateway("c", enabled=False)]
    assert mirrors(gateways, "a") == ["http://b.lan:4444/models"]
    assert mirrors(gateways, "rig1") == ["http://b.lan:4444/models", "http://a.lan:4001/models"]
