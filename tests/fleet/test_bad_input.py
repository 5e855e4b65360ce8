"""What cannot work stops a deployment, which says how to mend it, and what serves goes on.

Here the playbooks themselves do it; test_refusals.py has all that a preflight refuses.
"""

import json
import uuid
from pathlib import Path

import pytest
import requests
import yaml

from tests.counting import chat, count_to
from tests.fleet.harness import RIG, ROOT, Fleet, refusals, wait_for


def test_bad_api_keys_are_refused_and_not_shown(fleet: Fleet, tmp_path: Path) -> None:
    key = f"key-{uuid.uuid4()}"
    file = tmp_path / "keys.yml"
    keys = [
        {"name": "anna", "key": key},
        {"name": "bea", "key": key, "models": ["gpt"]},
        {"name": "cora", "key": "too-short"},
    ]
    file.write_text(json.dumps({"gateway_api_keys": keys}))
    told = refusals(fleet.playbook("-vvv", "--limit", "gateway", "--extra-vars", f"@{file}"))
    assert "The API key bea allows models that do not exist (gpt); there are counting." in told
    assert "The API key cora cannot be used: a key has 20 to 256 letters" in told
    assert "The API keys anna and bea are the same; give each client its own." in told
    assert key not in told
    assert "too-short" not in told


def test_what_nginx_refuses_leaves_the_old_configuration_serving(fleet: Fleet) -> None:
    site = "sha256sum /etc/nginx/sites-available/heartcode.conf"
    before = fleet.ssh("gateway", site)
    done = fleet.playbook(
        *("--extra-vars", "gateway_client_max_body_size=64megabytes"),
        playbook="playbooks/gateway.yml",
    )
    assert done.returncode != 0
    assert "client_max_body_size" in done.stdout + done.stderr
    assert fleet.ssh("gateway", site) == before
    # As it is on the disk it would serve after a restart, too.
    fleet.ssh("gateway", "nginx -t -q && systemctl reload nginx")
    assert chat(fleet, max_tokens=5).ok


def allows(fleet: Fleet, origin: str) -> bool:
    answer = requests.get(f"{fleet.url}/health", headers={"Origin": origin}, timeout=10)
    return answer.headers.get("Access-Control-Allow-Origin") == origin


@pytest.mark.ci
def test_what_was_written_before_a_play_fails_is_served(fleet: Fleet, tmp_path: Path) -> None:
    origin = "https://chat.example"
    _, play = yaml.safe_load((ROOT / "playbooks/gateway.yml").read_text())
    play["tasks"].append({"ansible.builtin.fail": {"msg": "A play that fails after the role."}})
    file = tmp_path / "fails.yml"
    file.write_text(json.dumps([play]))
    variables = json.dumps({"gateway_cors_origins": [origin]})
    done = fleet.playbook("--extra-vars", variables, playbook=str(file))
    try:
        assert done.returncode != 0
        assert "fails after the role" in done.stdout
        wait_for(lambda: allows(fleet, origin), "nginx has read what the role wrote")
    finally:
        fleet.playbook(playbook="playbooks/gateway.yml")


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_rig_without_power_stops_the_play_before_anything_is_changed(fleet: Fleet) -> None:
    fleet.tool("stop", "rig2")
    try:
        # Something that would be changed on the gateway.
        message = refusals(fleet.playbook("--extra-vars", "gateway_client_max_body_size=11m"))
    finally:
        fleet.tool("start", "rig2")
    assert "rig2 cannot be reached, and nothing was changed anywhere" in message
    assert "Bring it back, or deploy to the others alone: --limit 'all:!rig2'" in message


def test_a_missing_variable_is_named(fleet: Fleet, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(
        "all:\n"
        "  vars:\n"
        "    ansible_user: root\n"
        f"    ansible_ssh_common_args: -F {fleet.directory}/ssh_config\n"
        "  children: {gateways: {hosts: {gateway: }}, rigs: {hosts: {rig1: }}}\n"
    )
    message = refusals(fleet.playbook(inventory=inventory))
    assert "rig1: there is no model: set model_name" in message


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_setting_that_cannot_work_costs_one_backend(fleet: Fleet) -> None:
    """It is started anew with it and, as that fails, with what it had; nobody else is touched."""
    files = "find /etc/heartcode/llama -maxdepth 1 -name '*.env' -exec sha256sum {} +"
    had = [fleet.ssh(rig, files) for rig in fleet.rigs]
    before = fleet.starts()
    done = fleet.play_roles(*RIG, limit="rigs", llama_server_extra_args="--no-such-option")
    try:
        assert done.returncode != 0
        told = " ".join((done.stdout + done.stderr).split())
        assert "heartcode-llama@0.service does not start any more" in told
        assert "is as before, and it serves with that again" in told
        assert "--no-such-option" in told, "the end of its log"
        first = (fleet.rigs[0], "heartcode-llama@0.service")
        assert fleet.started_again(before) == {first}
        assert [fleet.ssh(rig, files) for rig in fleet.rigs] == had
        assert {fleet.state(rig, f"heartcode-llama@{n}") for rig, n in fleet.backends()} == {
            "active"
        }
        assert chat(fleet, max_tokens=5).ok
    finally:
        # What they shall be is again what they are: nothing is left to be done.
        before = fleet.starts()
        fleet.deploy(*RIG, limit="rigs")
    assert fleet.started_again(before) == set()


@pytest.mark.ci
def test_a_failed_build_leaves_the_old_version_serving(fleet: Fleet) -> None:
    current = "readlink /opt/heartcode/llama.cpp/current"
    before = [fleet.ssh(rig, current) for rig in fleet.rigs]
    broken = {"llama_cpp_cmake_extra_options": ["-DCMAKE_CXX_COMPILER=false"]}
    done = fleet.play_roles("llama_cpp", limit="rigs", **broken)
    assert done.returncode != 0
    output = " ".join(done.stdout.split())
    assert "Building llama.cpp failed on rig1" in output
    assert "the installed version goes on serving" in output
    assert [fleet.ssh(rig, current) for rig in fleet.rigs] == before
    answer = chat(fleet, max_tokens=5).json()
    assert answer["choices"][0]["message"]["content"].split() == count_to(5)
