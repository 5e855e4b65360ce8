"""The role rig plans with the hub's token, and says it nowhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TOKEN = "hf_of_nobody"  # noqa: S105


@pytest.mark.parametrize("given", ["inventory", "environment"])
def test_the_hub_s_token_is_in_no_output(tmp_path: Path, given: str) -> None:
    role = {"ansible.builtin.import_role": {"name": "rig", "tasks_from": "preflight"}}
    subset = {"gather_subset": ["!all", "!min", "hardware"]}
    tasks = [{"name": "Look", "ansible.builtin.setup": subset}, role]
    (tmp_path / "play.json").write_text(
        json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": tasks}])
    )
    variables = {
        "ansible_python_interpreter": sys.executable,
        "llama_cpp_backend": "cpu",
        "llama_server_gpus": [{"uuid": "one"}],
        "model_file": "there-is-none.gguf",
    }
    if given == "inventory":
        variables["model_hub_token"] = TOKEN
    (tmp_path / "variables.json").write_text(json.dumps(variables))
    done = subprocess.run(
        [
            *("ansible-playbook", "-i", "localhost,", "-c", "local", "-vvv"),
            *("-e", f"@{tmp_path}/variables.json", tmp_path / "play.json"),
        ],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
        | ({"HF_TOKEN": TOKEN} if given == "environment" else {})
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
    said = done.stdout + done.stderr
    assert "Note this rig's plan" in done.stdout, said
    assert TOKEN not in said
