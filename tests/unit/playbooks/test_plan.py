"""playbooks/plan.yml on this machine as a rig, with an nvidia-smi that lists two cards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
AA, BB = (f"GPU-00000000-0000-0000-0000-0000000000{end}" for end in ("aa", "bb"))
NVIDIA_SMI = """#!/bin/sh
case "$*" in
*--query-gpu=uuid,name,*) ;;
*) exit 1 ;;
esac
zeros=GPU-00000000-0000-0000-0000-0000000000
echo "${zeros}aa, P106-100, 6075, 76, 1, 1, 00000000:01:00.0, 6.1"
echo "${zeros}bb, P104-100, 8192, 76, [N/A], [N/A], 00000000:02:00.0, 6.1"
"""


def play(tmp_path: Path, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    programs = tmp_path / "bin"
    programs.mkdir()
    program = programs / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o755)
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable} | variables
    inventory = tmp_path / "inventory.yml"
    groups = {"rigs": {"hosts": {"here": host}}}
    if "llama_server_helpers" in variables:
        # It has the same cards: the same machine.
        helper = {key: host[key] for key in ("ansible_connection", "ansible_python_interpreter")}
        groups["helpers"] = {"hosts": {"there": helper}}
    inventory.write_text(yaml.safe_dump({"all": {"children": groups}}))
    return subprocess.run(
        ["ansible-playbook", "-i", inventory, "playbooks/plan.yml", *arguments],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "ANSIBLE_FORCE_COLOR": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(
    "arguments", [(), pytest.param(("--check",), marks=pytest.mark.ci)], ids=["run", "check"]
)
def test_it_prints_the_fleet_s_plan_and_changes_nothing(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    done = play(tmp_path, *arguments, llama_server_gpus=[{"uuid": BB}, {"uuid": AA, "slots": 1}])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "here  1 x P104-100  Q6_K    3 x 8192" in done.stdout
    assert "here  1 x P106-100  Q4_K_M  1 x 1" in done.stdout
    assert "card 1: slots 1: set by hand, and it fits" in done.stdout
    assert "changed=0 " in done.stdout


def test_it_prints_the_cards_as_variables_to_paste(tmp_path: Path) -> None:
    done = play(tmp_path, "-e", "plan_inventory=true")
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.split("msg: |-\n")[1].split("\nPLAY RECAP")[0]
    block = yaml.safe_load(printed)["here"]
    assert [gpu["uuid"] for gpu in block["llama_server_gpus"]] == [AA, BB]
    assert "# P104-100 with Q6_K\n" in printed


def test_what_does_not_fit_is_printed_and_fails(tmp_path: Path) -> None:
    done = play(tmp_path, "-e", "plan_model='8B Q6_K'", llama_server_n_ctx=8192)
    assert done.returncode != 0
    assert "here  1 x P106-100  nothing fits" in done.stdout
    assert "the table above says what would" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("listed", "order"),
    [
        ([], [AA, BB]),
        pytest.param([{"gpus": ["02:00.0", 0], "slots": 1}], [BB, AA], marks=pytest.mark.ci),
    ],
    ids=["found", "named"],
)
def test_cards_that_hold_a_model_together_are_a_group(
    tmp_path: Path, listed: list[dict[str, object]], order: list[str]
) -> None:
    asked = ("-e", "plan_model='12B Q6_K'", "-e", "plan_inventory=true")
    done = play(tmp_path, *asked, llama_server_gpus=listed)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.split("msg: |-\n")[1].split("\nPLAY RECAP")[0]
    (group,) = yaml.safe_load(printed)["here"]["llama_server_gpus"]
    assert group["gpus"] == order
    assert "uuid" not in group


def test_a_rig_is_planned_with_its_helpers(tmp_path: Path) -> None:
    done = play(tmp_path, "-e", "plan_model='24B Q4_K_M'", llama_server_helpers=["there"])
    assert done.returncode == 0, done.stdout + done.stderr
    lent = "1 P106-100 of there + 1 P104-100 of there"
    assert f"here  1 x ({lent} + 1 P106-100 + 1 P104-100)  Q4_K_M" in done.stdout
    assert "over a network of 110 MiB/s" in done.stdout
    assert "\nthere: " not in done.stdout, "a helper serves nothing itself"
