"""A part of a role, played on this machine with variables that say where things lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def play(
    directory: Path,
    role: str,
    tasks_from: str,
    variables: Mapping[str, Any],
    *,
    before: Sequence[Mapping[str, Any]] = (),
    options: Sequence[str] = (),
    hub_token: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run tasks of a role here, after those of `before`; `hub_token` is in the environment."""
    part = {"ansible.builtin.import_role": {"name": role, "tasks_from": tasks_from}}
    tasks = [*before, part]
    plays = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (directory / "play.json").write_text(json.dumps(plays))
    given = {"ansible_python_interpreter": sys.executable, **variables}
    (directory / "variables.json").write_text(json.dumps(given))
    return subprocess.run(
        [
            *("ansible-playbook", "-i", "localhost,", "-c", "local", *options),
            *("-e", f"@{directory}/variables.json", directory / "play.json"),
        ],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
        | ({"HF_TOKEN": hub_token} if hub_token else {})
        | {
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_HOME": str(directory / "ansible"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def play_on_all(
    directory: Path, inventory: Mapping[str, Any], play: Mapping[str, Any], **variables: str
) -> list[dict[str, Any]]:
    """Run a play for all hosts of an inventory here; return its tasks, with what came of each host.

    `variables` are the environment's.
    """
    (directory / "hosts.json").write_text(json.dumps(inventory))
    (directory / "play.json").write_text(json.dumps([play]))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            *("--inventory", directory / "hosts.json", directory / "play.json"),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        }
        | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return [task for one in json.loads(done.stdout)["plays"] for task in one["tasks"]]
