"""What was backed up comes back whole, and the same keys open the gateway."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.counting import chat
from tests.fleet.harness import Fleet, refusals

pytestmark = [pytest.mark.ci, pytest.mark.usefixtures("disturbs")]

LOST = {
    "gateway": "/etc/heartcode/rigs.json",
    "rig1": "/etc/heartcode/backends.json /etc/heartcode/llama/1.env",
}


def play(fleet: Fleet, name: str, **variables: object) -> subprocess.CompletedProcess[str]:
    told = [part for key, value in variables.items() for part in ("-e", f"{key}={value}")]
    return fleet.playbook(*told, playbook=f"playbooks/{name}.yml")


@pytest.fixture
def backup(fleet: Fleet, tmp_path: Path) -> Path:
    done = play(fleet, "backup", backup_directory=tmp_path / "backups", backup_prometheus=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.key not in done.stdout
    (found,) = [path for path in (tmp_path / "backups").iterdir() if path.is_dir()]
    return found


@pytest.fixture
def kept_key(fleet: Fleet) -> Iterator[str]:
    """The key, which no test may lose for good."""
    key = fleet.key
    yield key
    file = fleet.directory / "gateway.key"
    file.touch(mode=0o600)
    file.write_text(f"{key}\n")


def changed(done: subprocess.CompletedProcess[str]) -> int:
    """How many tasks of a playbook have changed something."""
    assert done.returncode == 0, done.stdout + done.stderr
    return sum(map(int, re.findall(r"changed=(\d+)", done.stdout)))


def test_the_round_trip(fleet: Fleet, backup: Path, kept_key: str) -> None:
    assert all(path.stat().st_mode & 0o077 == 0 for path in (backup, *backup.rglob("*")))
    before = {host: fleet.settings(host) for host in fleet.addresses}
    starts = fleet.starts()

    fleet.ssh("gateway", "systemctl stop prometheus && rm -r /var/lib/prometheus/metrics2/*")
    for host, paths in LOST.items():
        fleet.ssh(host, f"rm {paths}")
    (fleet.directory / "gateway.key").unlink()

    broken = backup.with_name("broken")
    shutil.copytree(backup, broken)
    with (broken / "gateway.key").open("a") as file:
        file.write("more")
    assert "holds another gateway.key than was backed up" in refusals(
        play(fleet, "restore", backup_from=broken)
    )
    assert not (fleet.directory / "gateway.key").exists()

    assert changed(play(fleet, "restore", backup_from=backup, backup_prometheus=True)) > 0
    assert fleet.key == kept_key
    assert (fleet.directory / "gateway.key").stat().st_mode & 0o777 == 0o600
    assert {host: fleet.settings(host) for host in fleet.addresses} == before
    assert fleet.state("gateway", "prometheus") == "active"
    fleet.ssh(
        "gateway", "ls /var/lib/prometheus/metrics2/wal/* && rm -r /var/lib/prometheus/*.before-*"
    )

    assert changed(play(fleet, "restore", backup_from=backup)) == 0
    fleet.set_up_gateway(backup.parent)
    assert chat(fleet, max_tokens=1).ok
    assert fleet.started_again(starts) == set()
