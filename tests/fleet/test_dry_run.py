"""What a dry run tells of a fleet that stands; molecule makes one of bare hosts."""

import re

import pytest

from tests.fleet.harness import Fleet


@pytest.mark.ci
@pytest.mark.long
def test_a_dry_run_of_what_is_deployed_tells_of_no_change(fleet: Fleet) -> None:
    done = fleet.playbook("--check", "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    changed = re.findall(r"changed=(\d+)", done.stdout)
    assert changed == ["0"] * (1 + len(fleet.addresses)), done.stdout
