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


@pytest.fixture(autouse=True)
def serving(fleet: Fleet) -> Iterator[None]:
    """Every test leaves a whole fleet behind: each rig gets requests from the gateway again."""
    for rig in fleet.rigs:
        # The tests before have used up some of the starts that systemd allows in a while.
        fleet.ssh(rig, "systemctl reset-failed 'heartcode-llama@*'")
    yield
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

    wait_for(all_answer, "the gateway sends requests to every rig again")
