"""What a dry run tells of a fleet that stands; molecule makes one of bare hosts."""

import re

import pytest

from tests.fleet.harness import Fleet


@pytest.mark.ci
def test_a_dry_run_of_what_is_deployed_tells_of_no_change(fleet: Fleet) -> None:
    done = fleet.playbook("--check", "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    changed = re.findall(r"changed=(\d+)", done.stdout)
    assert changed == ["0"] * (1 + len(fleet.addresses)), done.stdout


@pytest.mark.ci
@pytest.mark.parametrize(
    ("playbook", "tells"),
    [("plan", r"rig1 +2 x P106-100"), ("tune", r"rig1: +GPU-10600000-\S+: \d+ candidates")],
)
def test_other_playbooks_say_what_they_would_do(fleet: Fleet, playbook: str, tells: str) -> None:
    done = fleet.playbook("--check", "--limit", "rig1", playbook=f"playbooks/{playbook}.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(tells, done.stdout), done.stdout
    assert re.findall(r"changed=(\d+)", done.stdout) == ["0"]
