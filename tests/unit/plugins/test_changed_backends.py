"""Backends of several rigs whose settings change, as the role llama_server starts them anew.

The tasks are the role's own, the hosts are this machine several times, and each has a systemctl of
its own that knows its backends (test_host_modules.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.plugins.test_host_modules import ROOT, Systemd, unit, with_files

TASKS = ROOT / "roles/llama_server/tasks/service.yml"
BACKENDS = ("heartcode-llama@0", "heartcode-llama@1", "heartcode-llama@2")


class Rig:
    """One with three backends that serve; `shall_be` is what the settings of each become."""

    def __init__(self, directory: Path, *shall_be: str, was: str = "good") -> None:
        self.place = directory
        directory.mkdir()
        self.systemd = Systemd(directory, {f"{name}.service": unit() for name in BACKENDS})
        self.units = [
            with_files(directory, name, was, wanted)
            for name, wanted in zip(BACKENDS, shall_be, strict=True)
        ]

    @property
    def restarted(self) -> list[int]:
        """Its backends in the order in which they were restarted."""
        lines = self.systemd.log.read_text().splitlines()
        told = [line.removeprefix("restart ") for line in lines if line.startswith("restart ")]
        return [int(name.removeprefix("heartcode-llama@").split(".")[0]) for name in told]

    @property
    def settings(self) -> list[str]:
        return [(self.place / f"{name}.service.env").read_text() for name in BACKENDS]

    @property
    def states(self) -> list[str]:
        units = json.loads(self.systemd.file.read_text())["units"]
        return [units[f"{name}.service"]["ActiveState"] for name in BACKENDS]


def deploy(directory: Path, *rigs: Rig, options: tuple[str, ...] = ()) -> tuple[bool, str, int]:
    """Run the role's tasks; return whether they went well, what was said, and their number."""
    hosts: dict[str, dict[str, Any]] = {
        rig.place.name: {"_llama_server_units": rig.units, "place": str(rig.place)} for rig in rigs
    }
    inventory, play = directory / "inventory.json", directory / "play.yml"
    inventory.write_text(json.dumps({"all": {"hosts": hosts}}))
    variables = {
        "_llama_server_indexes": [0, 1, 2],
        "rig_deployed": {},
        "_llama_server_run_dir": str(directory),
    }
    tasks = [
        {"ansible.builtin.include_tasks": str(TASKS)},
        {"ansible.builtin.debug": {"msg": "what comes next"}},
    ]
    path = {"PATH": f"{{{{ place }}}}:{os.environ['PATH']}"}
    plays = {"hosts": "all", "gather_facts": False, "environment": path}
    play.write_text(json.dumps([plays | {"vars": variables, "tasks": tasks}]))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(inventory), "-c", "local", *options),
            *("-e", f"ansible_python_interpreter={sys.executable}", str(play)),
        ],
        cwd=ROOT,
        env=os.environ
        | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(directory / "ansible")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout + done.stderr, done.stdout.count("\nTASK [")


def test_all_backends_get_what_has_changed_the_first_of_each_rig_before_the_others(
    tmp_path: Path,
) -> None:
    rigs = [Rig(tmp_path / name, *["new"] * 3) for name in ("rig1", "rig2")]
    well, said, _ = deploy(tmp_path, *rigs)
    assert well, said
    assert [rig.restarted for rig in rigs] == [[0, 1, 2]] * 2
    assert [rig.settings for rig in rigs] == [["new"] * 3] * 2
    first, others = said.index("Start the first backend anew"), said.index("Start the others anew")
    assert first < others
    well, said, tasks = deploy(tmp_path, *rigs)
    assert well, said
    assert tasks == 3, "where nothing changes, one task for all backends, and none for each"
    assert [rig.restarted for rig in rigs] == [[0, 1, 2]] * 2


def test_one_setting_that_cannot_work_costs_one_backend_of_the_fleet(tmp_path: Path) -> None:
    rigs = [Rig(tmp_path / name, *["bad"] * 3) for name in ("rig1", "rig2", "rig3")]
    well, said, _ = deploy(tmp_path, *rigs)
    assert not well
    assert "heartcode-llama@0.service does not start any more" in said
    assert "a word from the log" in said
    assert "what comes next" not in said, "the play ends for all rigs"
    assert [rig.restarted for rig in rigs] == [[0, 0], [], []], "with the new, and with the old"
    assert [rig.settings for rig in rigs] == [["good"] * 3] * 3
    assert [rig.states for rig in rigs] == [["active"] * 3] * 3


@pytest.mark.ci
def test_one_rig_s_own_setting_is_no_harm_to_the_others(tmp_path: Path) -> None:
    changed, wrong, same = (
        Rig(tmp_path / "rig1", *["new"] * 3),
        Rig(tmp_path / "rig2", *["bad"] * 3),
        Rig(tmp_path / "rig3", *["good"] * 3),
    )
    well, said, _ = deploy(tmp_path, changed, wrong, same)
    assert not well
    assert "what comes next" not in said
    assert [rig.restarted for rig in (changed, wrong, same)] == [[0], [0, 0], []]
    assert wrong.states == ["active"] * 3
    # With it mended, the next run does what is left.
    for name in BACKENDS:
        (wrong.place / f"{name}.wanted").write_text("new")
    well, said, _ = deploy(tmp_path, changed, wrong, same)
    assert well, said
    assert changed.restarted == [0, 1, 2]
    assert changed.settings == wrong.settings == ["new"] * 3


def test_what_one_card_cannot_work_with_is_its_rig_s_alone(tmp_path: Path) -> None:
    changed, wrong = (
        Rig(tmp_path / "rig1", *["new"] * 3),
        Rig(tmp_path / "rig2", "new", "bad", "new"),
    )
    well, said, _ = deploy(tmp_path, wrong, changed)
    assert not well
    assert said.count("what comes next") == 1
    assert changed.settings == ["new"] * 3
    assert wrong.settings == ["new", "good", "good"]
    assert wrong.states == ["active"] * 3


@pytest.mark.parametrize("bad", [1, 2])
def test_one_card_s_own_setting_costs_its_backend(tmp_path: Path, bad: int) -> None:
    wanted = ["bad" if number == bad else "new" for number in range(3)]
    rig = Rig(tmp_path / "rig1", *wanted)
    well, said, _ = deploy(tmp_path, rig)
    assert not well
    assert f"heartcode-llama@{bad}.service does not start any more" in said
    assert rig.settings == [*["new"] * bad, *["good"] * (3 - bad)]
    assert rig.states == ["active"] * 3


def test_a_dry_run_tells_who_would_be_started_anew(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "rig1", "new", "good", "new")
    well, said, _ = deploy(tmp_path, rig, options=("--check",))
    assert well, said
    assert said.count("\nchanged: [rig1]") == 2
    assert rig.restarted == []
    assert rig.settings == ["good"] * 3
