"""What becomes of other rigs when one of a batch fails: the plays' own words, with other tasks.

It hides what the tasks do; tests/fleet has two rigs, and so batches of one.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
_MESSAGE = re.compile(r'"msg": ("(?:[^"\\]|\\.)*")')
RIGS = ("r1", "r2", "r3", "r4", "r5")
FAILS = {
    "name": "Verify",
    "ansible.builtin.fail": {"msg": "no"},
    "when": "inventory_hostname == 'r3'",
}


def say(what: str) -> dict[str, Any]:
    return {"name": what, "ansible.builtin.debug": {"msg": what + " {{ inventory_hostname }}"}}


def rigs_play(playbook: str) -> dict[str, Any]:
    """The play that changes rigs, without its tasks and for this machine."""
    plays = yaml.safe_load((ROOT / "playbooks" / playbook).read_text())
    play: dict[str, Any]
    (play,) = (each for each in plays if "serial" in each and each["hosts"] == "rigs")
    return play | {"become": False}


def told(tmp_path: Path, *plays: dict[str, Any], **variables: Any) -> list[str]:
    """Run plays on five rigs; return what they have said, in order."""
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    groups = {"rigs": {"hosts": dict.fromkeys(RIGS, local)}, "gateways": {"hosts": {"g": local}}}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    (tmp_path / "inner.yml").write_text(yaml.safe_dump(list(plays)))
    outer = {"name": "All", "import_playbook": "inner.yml", "vars": variables}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([outer]))
    done = subprocess.run(
        ["ansible-playbook", "-i", tmp_path / "inventory.yml", tmp_path / "play.yml"],
        cwd=ROOT,
        env=os.environ | {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    return [json.loads(text) for text in _MESSAGE.findall(done.stdout)]


GATEWAYS = {"hosts": "gateways", "gather_facts": False, "tasks": [say("set up")]}


def switching(failing: dict[str, Any]) -> dict[str, Any]:
    report = {"name": "Report", "ansible.builtin.fail": {"msg": "{{ inventory_hostname }} was not"}}
    block = {"block": [say("switch"), failing, say("keep")], "rescue": [say("put back"), report]}
    return rigs_play("site.yml") | {"tasks": [block, say("tidy")]}


def test_an_update_ends_with_the_batch_in_which_a_rig_fails(tmp_path: Path) -> None:
    said = told(tmp_path, switching(FAILS), GATEWAYS, rigs_at_a_time=[1, 2])
    assert {line for line in said if line.startswith("switch")} == {
        f"switch {rig}" for rig in RIGS[:3]
    }
    assert [line for line in said if line.startswith("put back")] == ["put back r3"]
    assert {"keep r1", "keep r2"} <= set(said), "what was found to serve stays"
    assert "set up g" not in said


def test_a_backend_that_does_not_start_puts_all_of_its_batch_back(tmp_path: Path) -> None:
    """As the role llama_server says it: on each rig of the batch."""
    (judged,) = (
        task
        for task in yaml.safe_load((ROOT / "roles/llama_server/tasks/first.yml").read_text())
        if "ansible.builtin.assert" in task
    )
    tried = {"name": "Try", "ansible.builtin.fail": {"msg": "no"}, "ignore_errors": True}
    only = {"register": "__llama_server_tried", "when": "inventory_hostname == 'r3'"}
    failing = {"block": [tried | only, judged], "vars": {"__llama_server_rig": "r3"}}
    said = told(tmp_path, switching(failing), GATEWAYS, rigs_at_a_time=[3])
    back = {line for line in said if line.startswith("put back")}
    assert back == {"put back r1", "put back r2", "put back r3"}
    assert not {"switch r4", "set up g"} & set(said)


def test_a_deployment_goes_on_with_the_other_rigs(tmp_path: Path) -> None:
    said = told(tmp_path, switching(FAILS), GATEWAYS)
    assert {"keep r1", "keep r2", "keep r4", "keep r5", "set up g"} <= set(said)
    assert [line for line in said if line.startswith("put back")] == ["put back r3"]


def test_rigs_whose_batch_ends_take_requests_again(tmp_path: Path) -> None:
    """With what the role debian itself says in its rescue, but for the sign that is removed."""
    (task,) = yaml.safe_load((ROOT / "roles/debian/tasks/rig.yml").read_text())
    note, fill, report = task["rescue"]
    assert fill["ansible.builtin.include_role"] == {"name": "generation", "tasks_from": "fill"}
    own = {"block": [say("empty"), FAILS], "rescue": [note, say("fill"), report]}
    play = rigs_play("update_debian.yml") | {"tasks": [own]}
    said = told(tmp_path, play, GATEWAYS, update_rigs_at_a_time=[1, 2])
    assert {line for line in said if line.startswith("fill")} == {"fill r2", "fill r3"}
    assert any(line.startswith('r3: "Verify" failed: no') for line in said)
    assert any(line.startswith("r2: another rig of its batch failed.") for line in said)
    assert not {"empty r4", "set up g"} & set(said)
