"""A part of playbooks/site.yml, as tests of a deployment run it."""

from typing import Any

import pytest
import yaml

from tests.fleet.harness import ROOT, every_task, site_with

#: The hosts of all groups.
EVERY_HOST = "rigs:gateways{{ ':helpers' if groups.helpers is defined else '' }}"

HELPERS = "{{ 'helpers' if groups.helpers is defined else [] }}"


def roles(plays: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Hosts and names of the roles that are checked or run, in their order."""
    found = []
    for play in plays:
        for task in every_task(play):
            told = task.get("ansible.builtin.import_role", task.get("ansible.builtin.include_role"))
            if told:
                found.append((play["hosts"], f"{told['name']}:{told.get('tasks_from', 'main')}"))
    return found


def test_a_role_is_checked_and_run_where_site_yml_does_it() -> None:
    found = roles(site_with("app", "proxy"))
    assert [one for one in found if one[0] != HELPERS] == [
        (EVERY_HOST, "common:preflight"),
        ("rigs", "rig:preflight"),
        ("rigs", "app:preflight"),
        ("rigs", "generation:preflight"),
        ("rigs", "generation:begin"),
        ("rigs", "rig:deploy"),
        ("rigs", "app:begin"),
        ("rigs", "app:deploy"),
        ("rigs", "proxy:deploy"),
        ("rigs", "generation:verify"),
        ("rigs", "generation:deploy"),
        ("rigs", "app:remove_old"),
    ]
    assert [role for hosts, role in found if hosts == HELPERS] == [
        "app:preflight",
        "app:begin",
        "app:deploy",
        "app:remove_old",
    ]


def test_a_role_that_is_run_in_a_block_alone_has_what_goes_with_it() -> None:
    assert roles(site_with("llama_server"))[-5:] == [
        ("rigs", "rig:deploy"),
        ("rigs", "llama_server:deploy"),
        ("rigs", "generation:verify"),
        ("rigs", "generation:deploy"),
        ("rigs", "llama_server:remove_old"),
    ]


def test_what_is_only_prepared_is_not_looked_for_where_rigs_serve() -> None:
    assert ("rigs", "generation:verify") not in roles(site_with("model"))
    assert ("rigs", "generation:deploy") in roles(site_with("model"))


def test_what_site_yml_does_after_a_role_stays_with_it() -> None:
    assert ("gateways", "gateway:tell") in roles(site_with("gateway"))
    assert ("gateways", "gateway:tell") not in roles(site_with("prometheus"))


def test_cards_are_looked_for_where_a_role_of_the_rigs_asks() -> None:
    assert "rigs" not in {hosts for hosts, _ in roles(site_with("prometheus"))}


def test_all_roles_are_site_yml_itself() -> None:
    site = yaml.safe_load((ROOT / "playbooks/site.yml").read_text())
    every = {name.removesuffix(":deploy") for _, name in roles(site) if name.endswith(":deploy")}
    assert site_with(*every) == site


def test_a_role_that_site_yml_does_not_have_is_told() -> None:
    with pytest.raises(AssertionError, match="nobodys"):
        site_with("nobodys")
