"""What the role rig says of llama_server_helpers, in one run for all rigs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from tests.unit.roles.playing import play_on_all


class Case(NamedTuple):
    """What a rig has in llama_server_helpers, and a part of what is said; "" where it passes."""

    helpers: Any
    says: str = ""
    variables: Mapping[str, Any] = {}


NOT_ALONE = {"llama_cpp_patched": False}
CASES = {
    "two": Case(["helper1", "helper2.lan-2"]),
    "none": Case([]),
    "nothing at all": Case(None),
    "none, and no patch": Case([], variables=NOT_ALONE),
    "a text": Case("helper1", 'must be a list of hosts, as in [rig2], not "helper1".'),
    "a number": Case(5, "must be a list of hosts, as in [rig2], not 5."),
    "numbers": Case([1], "must be a list of hosts, as in [rig2], not [1]."),
    "a host with settings": Case([{"name": "helper1"}], "must be a list of hosts"),
    "settings": Case({"helper1": {}}, "must be a list of hosts"),
    "one that nobody knows": Case(
        ["helper1", "nobody"], "nobody of llama_server_helpers is not in the inventory's group"
    ),
    "two that nobody knows": Case(["a", "b"], "a, b of llama_server_helpers are not in the inv"),
    "itself": Case(["rig11"], "rig11 of llama_server_helpers is not in the inventory's group"),
    "one twice": Case(["helper1", "helper1"], "llama_server_helpers names a host twice"),
    "one that is not asked": Case(
        ["helper1", "silent"],
        "silent is not in this run. Name them beside it: --limit rig13,helper1,silent,",
    ),
    "no patch": Case(["helper1"], "and llama_cpp_patched is false", NOT_ALONE),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    rigs = {
        f"rig{number}": {"llama_server_helpers": case.helpers, **case.variables}
        for number, case in enumerate(CASES.values())
    }
    asked: Mapping[str, Any] = {"rpc_server": {}}
    helpers = {"helper1": asked, "helper2.lan-2": asked, "silent": {}}
    groups = {"rigs": {"hosts": rigs}, "helpers": {"hosts": helpers}}
    known = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    role = {"name": "rig", "tasks_from": "helpers"}
    play = {
        "hosts": "rigs",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.import_role": role}],
    }
    directory = tmp_path_factory.mktemp("rigs")
    (task,) = play_on_all(directory, {"all": {"children": groups, "vars": known}}, play)
    return {
        what: str(task["hosts"][rig]["msg"]) if task["hosts"][rig].get("failed") else ""
        for what, rig in zip(CASES, rigs, strict=True)
    }


@pytest.mark.parametrize("what", CASES)
def test_helpers_that_cannot_be_are_told_in_a_line(said: Mapping[str, str], what: str) -> None:
    assert CASES[what].says in said[what]
    assert bool(CASES[what].says) == bool(said[what]), said[what]
    assert "\n" not in said[what].strip()
