"""Whether a rig that was switched takes requests again: the role's own tasks, on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.roles.test_generation_programs import GOOD, rig

ROOT = Path(__file__).parents[3]
THEIRS = "HeartCode's playbooks\n"


def verify(tmp_path: Path, url: str) -> subprocess.CompletedProcess[str]:
    port = url.rpartition(":")[2]
    variables = {
        "_generation_draining": str(tmp_path / "draining"),
        "app_port": port,
        "app_metrics_port": port,
        "generation_ready_s": 1,
        "generation_soak_s": 0,
        "rig_backends": [{"model_name": "counting"}],
        "ansible_python_interpreter": sys.executable,
    }
    role = {"ansible.builtin.import_role": {"name": "generation", "tasks_from": "verify"}}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [role]}
    (tmp_path / "play.json").write_text(json.dumps([play]))
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    return subprocess.run(
        [
            *("ansible-playbook", "-i", "localhost,", "-c", "local"),
            *("-e", f"@{tmp_path}/variables.json", tmp_path / "play.json"),
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_HOME": str(tmp_path / "ansible"),
            "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_one_that_a_person_has_emptied_stays_empty_and_is_not_asked_for_a_token(
    tmp_path: Path,
) -> None:
    (tmp_path / "draining").touch()
    with rig(GOOD, token=503) as url:
        done = verify(tmp_path, url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as a person has emptied it" in done.stdout
    assert "a token of no model; nothing failed" in done.stdout
    assert (tmp_path / "draining").exists()


@pytest.mark.parametrize("left", [None, THEIRS], ids=["serving", "left by a play"])
def test_any_other_takes_requests_and_has_to_give_a_token(tmp_path: Path, left: str | None) -> None:
    if left:
        (tmp_path / "draining").write_text(left)
    with rig(GOOD, token=503) as url:
        done = verify(tmp_path, url)
    assert done.returncode != 0
    assert "the proxy gave no token of counting" in done.stdout
    assert not (tmp_path / "draining").exists()
