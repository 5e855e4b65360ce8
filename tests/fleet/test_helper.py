"""A rig that becomes the helper of another, with its cards, and a rig again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.counting import chat, count_to
from tests.fleet.harness import ROOT, Fleet, wait_for
from tests.fleet.test_cards import limits, uuids_of_inventory
from tests.fleet.test_rpc import BACKEND, LENT, PORT, backends, deploy, look_after, states

pytestmark = pytest.mark.long

HELPER, LEADER = "rig1", "rig2"


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual fleet's, in which one rig helps the other."""
    directory = tmp_path_factory.mktemp("inventory")
    for part in ("group_vars", "host_vars"):
        shutil.copytree(ROOT / "inventory/virtual" / part, directory / part)
    groups: dict[str, object] = {
        "gateways": {"hosts": {"gateway": {}}},
        "rigs": {"hosts": {LEADER: {"llama_server_helpers": [HELPER]}}},
        "helpers": {"hosts": {HELPER: {}}},
    }
    groups["virtual"] = {"children": {name: {} for name in groups}}
    file = directory / "hosts.yml"
    file.write_text(yaml.safe_dump({"all": {"children": groups}}))
    return file


@pytest.fixture(scope="module", autouse=True)
def lent(fleet: Fleet, inventory: Path) -> Iterator[None]:
    # Variables of a file beside the fleet's own would be looked for there.
    fleet_dir = f"fleet_dir={fleet.directory.resolve()}"
    try:
        deploy(fleet, "-e", fleet_dir, inventory=inventory)
        yield
    finally:
        deploy(fleet)


def told_of_cards(fleet: Fleet, metric: str) -> dict[str, str]:
    found = fleet.metrics(f'{metric}{{job="helper",rig="{HELPER}"}}')
    return {one["metric"]["gpu"]: one["value"][1] for one in found}


def test_its_cards_are_the_other_s(fleet: Fleet) -> None:
    cards = uuids_of_inventory(HELPER)
    settings = fleet.ssh(LEADER, "cat /etc/heartcode/llama/0.env").splitlines()
    assert f'HEARTCODE_RPC="{HELPER}={fleet.addresses[HELPER]}:{PORT}/{len(cards)}"' in settings
    wait_for(lambda: states(fleet) == ["up"], "it generates", 180)
    told = backends(fleet)[0]["cards"]
    assert told[: len(cards)] == [f"{uuid}@{HELPER}" for uuid in cards]
    answer = chat(f"http://{fleet.addresses[LEADER]}:8080", max_tokens=30).json()
    assert answer["choices"][0]["message"]["content"].split() == count_to(30)


def test_it_serves_nothing_itself(fleet: Fleet) -> None:
    units = fleet.units(HELPER)
    assert LENT in units
    assert not [unit for unit in units if "llama@" in unit or "card@" in unit or "revive@" in unit]
    assert not {"heartcode.service", "heartcode.socket"} & units
    assert fleet.ssh(HELPER, "ls /etc/heartcode/llama/*.env", check=False) == ""
    told = json.loads(fleet.ssh(LEADER, "curl -fsS http://127.0.0.1:8080/fleet"))
    assert [rig["name"] for rig in told["rigs"]] == [LEADER]


def test_a_card_that_is_lent_is_gone_and_comes_back(fleet: Fleet) -> None:
    """It lends none meanwhile, the leader says whose card it is, and limits of power are back."""
    card, limited = uuids_of_inventory(HELPER)[1], limits(fleet, HELPER)
    wait_for(lambda: told_of_cards(fleet, "gpu_up") == {"0.0": "1", "0.1": "1"}, "they are known")
    fleet.ssh(HELPER, "simulated-cards lose 1")
    try:
        fleet.ssh(HELPER, f"systemctl restart {LENT}", check=False)
        assert fleet.ssh(HELPER, "cat /run/heartcode/llama/0.quarantined").startswith(card)
        look_after(fleet)
        wait_for(lambda: states(fleet) == ["gone"], "the leader's backend is in quarantine", 120)
        assert f"@{HELPER}: {HELPER}: " in backends(fleet)[0]["gone"]
        assert fleet.state(LEADER, BACKEND) == "failed"
        gone = {"0.0": "0", "0.1": "1"}
        wait_for(lambda: told_of_cards(fleet, "gpu_quarantined") == gone, "it is named")
    finally:
        fleet.ssh(HELPER, "simulated-cards restore 1")
    wait_for(lambda: fleet.state(HELPER, LENT) == "active", "it lends them again", 180)
    look_after(fleet)
    wait_for(lambda: states(fleet) == ["up"], "it generates", 180)
    assert limits(fleet, HELPER) == limited
