"""What becomes of conversations in files when a deployment wants none: the role's own tasks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def remove_old(tmp_path: Path, mib: str) -> str:
    role = {"ansible.builtin.import_role": {"name": "llama_server", "tasks_from": "remove_old"}}
    play = {"hosts": "localhost", "gather_facts": False, "tasks": [role]}
    variables = {
        "ansible_python_interpreter": sys.executable,
        "llama_server_conversations_mib": mib,
        "rig_facts": {"disk_mib": 100_000},
        "_llama_server_conversations_dir": str(tmp_path / "conversations"),
        "_llama_server_kept_dir": str(tmp_path / "kept"),
        "_llama_server_kept_models": [],
    }
    (tmp_path / "play.json").write_text(json.dumps([play]))
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    done = subprocess.run(
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
        check=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.parametrize(("mib", "stays"), [("0", False), ("64", True), ("planned", True)])
def test_nothing_that_clients_said_is_left_where_none_is_kept(
    tmp_path: Path, mib: str, *, stays: bool
) -> None:
    conversations = tmp_path / "conversations"
    conversations.mkdir()
    for name in ("a.kv", "a.json", "secret"):
        (conversations / name).write_text("a word of somebody")
    said = remove_old(tmp_path, mib)
    assert len(list(conversations.iterdir())) == (3 if stays else 0)
    assert "changed=0 " in (said if stays else remove_old(tmp_path, mib)), "a second run is idle"
