"""The fleet that stands, for the tests of a deployment."""

import json
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.counting import chat
from tests.fleet.harness import ROOT, Fleet, wait_for


@pytest.fixture(scope="session")
def fleet() -> Fleet:
    directory = Path(os.environ.get("HEARTCODE_FLEET_DIR", ROOT / ".fleet"))
    if not (directory / "fleet.json").exists():
        pytest.fail(f"no fleet stands in {directory}; run `make up` or `make fleet-test`")
    machines = json.loads((directory / "fleet.json").read_text())["machines"]
    return Fleet(directory, {name: machine["address"] for name, machine in machines.items()})


def wait_until_every_rig_answers(fleet: Fleet) -> None:
    """Wait until the gateway sends requests to each rig."""
    before = {rig: fleet.answered(rig) for rig in fleet.rigs}
    conversations = count()

    def all_answer() -> bool:
        # A conversation of its own each time: the gateway gives one always to the same rig.
        chat(
            fleet,
            max_tokens=1,
            messages=[{"role": "user", "content": f"Is rig {next(conversations)} there?"}],
        )
        return all(fleet.answered(rig) > before[rig] for rig in fleet.rigs)

    wait_for(all_answer, "the gateway sends requests to every rig again", timeout_s=120)


@pytest.fixture(scope="module", autouse=True)
def whole(fleet: Fleet) -> Iterator[None]:
    """A module leaves the fleet as it has found it, or fails by its own name."""

    def found() -> dict[str, set[str]]:
        units = {host: fleet.units(host) for host in fleet.addresses}
        return units | {
            rig: units[rig] | fleet.settings(rig) | fleet.limits(rig) for rig in fleet.rigs
        }

    before = found()
    yield

    def changed() -> dict[str, list[str]]:
        now = {host: there ^ before[host] for host, there in found().items()}
        return {host: sorted(what) for host, what in now.items() if what}

    wait_for(lambda: not changed(), lambda: f"these are as before: {changed()}", timeout_s=120)
    wait_until_every_rig_answers(fleet)


@pytest.fixture
def disturbs(fleet: Fleet) -> Iterator[None]:
    """What a test that stops, kills or cuts off asks for: after it every rig serves again."""
    for rig in fleet.rigs:
        # The tests before have used up some of the starts that systemd allows in a while.
        fleet.ssh(rig, "systemctl reset-failed 'heartcode-llama@*'")
    yield
    wait_until_every_rig_answers(fleet)
