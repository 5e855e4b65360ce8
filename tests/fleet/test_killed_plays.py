"""A play that is killed anywhere and run again ends where one ends that was not."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.counting import chat, count_to
from tests.fleet.harness import RIG, ROOT, Fleet, site_with

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("disturbs")]

#: Those that write most of what is taken in by a reload or a restart, and all.
SOME = ("app", "proxy", "exporter", "gateway")
ALL = (*RIG, "gpu_tune", "gateway")
ORIGIN = "https://chat.example"
SETTINGS: dict[str, Any] = yaml.safe_load(
    (ROOT / "inventory/virtual/group_vars/virtual.yml").read_text()
)["app_settings"]
#: What two deployments want: each takes back what the other did. Settings of backends, of the proxy
#: and of nginx are among it, so that restarts, reloads and files can be missed.
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {
        "llama_server_slots": 1,
        "llama_server_cache_ram_mib": 32,
        "gateway_cors_origins": [ORIGIN],
        "app_settings": SETTINGS | {"HEARTCODE_MAX_TOKENS": 7},
    },
)
LINKS = "find /opt/heartcode /etc/systemd/system -type l -name '[ch]*' -printf '%p %l\\n'"
PLACES = "/etc/systemd/system /opt/heartcode/libexec"
UNITS = f"find {PLACES} -name 'heartcode*' -type f -exec sha256sum {{}} +"


#: How the lines begin that Ansible writes when it begins a task or a handler.
HANDLER = "RUNNING HANDLER ["
TASK = ("TASK [", HANDLER)


class Run:
    """A playbook that runs, and may be killed."""

    def __init__(
        self, fleet: Fleet, directory: Path, roles: Sequence[str], variables: dict[str, Any]
    ) -> None:
        playbook, given = directory / "roles.yml", directory / "variables.json"
        playbook.write_text(yaml.safe_dump(site_with(*roles), sort_keys=False))
        given.write_text(json.dumps(variables))
        self.process = subprocess.Popen(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                *("-i", ROOT / "inventory/virtual", "-e", f"@{given}", playbook),
            ],
            cwd=ROOT,
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_FORCE_COLOR": "0",
                "HEARTCODE_FLEET_DIR": str(fleet.directory),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        )

    def kill_at(self, place: int | str) -> str:
        """Kill it and all that it has started here when a task begins; return which one.

        The task is told by its number, or by how its line begins.
        """
        begun = 0
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                begun += line.startswith(TASK)
                if begun == place or (isinstance(place, str) and line.startswith(place)):
                    os.killpg(self.process.pid, signal.SIGKILL)
                    break
        self.process.wait()
        return line.split("*")[0].strip()

    def ended(self) -> int:
        """Wait for its end, and return how many tasks it had."""
        said, _ = self.process.communicate()
        assert self.process.returncode == 0, said
        return said.count("\nTASK [") + said.count("\nRUNNING HANDLER [")


def state(fleet: Fleet) -> dict[str, Any]:
    """Files, units, links, and what really serves."""
    found: dict[str, Any] = {
        host: (
            fleet.settings(host),
            fleet.units(host),
            set(fleet.ssh(host, f"{LINKS}; {UNITS}", check=False).splitlines()),
        )
        for host in fleet.addresses
    }
    # A process may run on with what was before: these are what it was started with.
    for rig in fleet.rigs:
        url = f"http://{fleet.addresses[rig]}:8080"
        found[f"{rig} serves"] = (
            requests.get(f"{url}/props", timeout=30).json()["total_slots"],
            chat(url, max_tokens=8).status_code,
            fleet.ssh(rig, "curl -s http://127.0.0.1:9091/metrics | grep ^backend_slots"),
            fleet.ssh(rig, "readlink /proc/$(systemctl show -P MainPID heartcode)/cwd"),
            fleet.ssh(
                rig,
                "for n in 0 1; do tr '\\0' '\\n' </proc/$(systemctl show -P MainPID"
                " heartcode-llama@$n)/cmdline; done",
            ),
        )
    answer = requests.get(f"{fleet.url}/health", headers={"Origin": ORIGIN}, timeout=30)
    found["nginx allows"] = answer.headers.get("Access-Control-Allow-Origin")
    left = [
        fleet.ssh(host, "ls /var/lib/heartcode/undone", check=False) for host in fleet.addresses
    ]
    assert not any(left), "notes of a run are taken away at its end"
    return found


@pytest.fixture
def as_before(fleet: Fleet) -> Iterator[None]:
    yield
    fleet.deploy(*ALL)


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("roles", "number", "seed"),
    [pytest.param(SOME, 2, 1, marks=pytest.mark.ci), (ALL, 20, 2)],
    ids=["some", "many"],
)
def test_a_play_that_is_killed_and_run_again_ends_in_the_same_state(
    fleet: Fleet, tmp_path: Path, roles: Sequence[str], number: int, seed: int
) -> None:
    chance = random.Random(seed)
    wanted: list[dict[str, Any]] = []
    tasks = 0
    for variables in reversed(VARIANTS):
        tasks = Run(fleet, tmp_path, roles, variables).ended()
        wanted.insert(0, state(fleet))
    assert wanted[0] != wanted[1]
    told = []
    for turn in range(number):
        variant = (turn + 1) % 2
        # First where all is written and nobody has heard of it, then anywhere behind the checks.
        place = chance.randint(tasks // 3, tasks) if turn else HANDLER
        told.append(Run(fleet, tmp_path, roles, VARIANTS[variant]).kill_at(place))
        Run(fleet, tmp_path, roles, VARIANTS[variant]).ended()
        assert state(fleet) == wanted[variant], f"seed {seed}, killed at {told}"
        answer = chat(fleet, max_tokens=5).json()
        assert answer["choices"][0]["message"]["content"].split() == count_to(5)
