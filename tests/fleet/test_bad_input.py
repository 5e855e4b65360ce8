"""What cannot work stops the play before anything is changed, and says how to mend it."""

import json
import os
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import requests

from tests.fleet.counting import chat, count_to
from tests.fleet.harness import Fleet, refusals, wait_for

CARD = "GPU-10600000-0000-4000-8000-000000000001"  # rig1's first

# What is wrong: what is written in the inventory, and what the play says.
Cases = dict[str, tuple[Mapping[str, object], str]]
FOR_A_RIG: Cases = {
    "no GPUs listed": (
        {"llama_server_gpus": []},
        "llama_server_gpus of rig1 must list each of the rig's GPUs once",
    ),
    "a model that is not a GGUF": (
        {"model_file": "../model.bin"},
        "give the name of a .gguf file without a path",
    ),
    "a model that is not there": (
        {"model_src": "/nowhere/model.gguf"},
        "there is no such file on the control node",
    ),
    "no model": (
        {"model_file": "", "model_src": ""},
        "rig1: there is no model: set model_name and model_quantisation (lumimaid, stheno)",
    ),
    "a model that does not exist": (
        {"model_name": "sthenno", "model_file": "", "model_src": ""},
        "no model 'sthenno'; the catalogue has lumimaid, stheno",
    ),
    "a quantisation that does not exist": (
        {"model_name": "stheno", "model_quantisation": "Q9", "model_file": "", "model_src": ""},
        "no quantisation 'Q9' of stheno; there are Q4_K_M, Q5_K_M, Q6_K",
    ),
    "a source that is no GGUF": (
        {"model_src": str(Path(__file__))},
        "is no usable GGUF: it begins with",
    ),
    "a model that the rig does not have": (
        {"model_src": "", "model_file": "absent.gguf"},
        "rig1 has no /var/lib/heartcode/models/absent.gguf. Put the file there",
    ),
    "a hash that is none": (
        {"llama_cpp_source_sha256": "00ff"},
        "llama_cpp_source_sha256 must be 64 hexadecimal digits",
    ),
    "a hash that the source does not have": (
        {"llama_cpp_source_sha256": "0" * 64},
        "restore llama_cpp_source_version and llama_cpp_source_sha256",
    ),
    "too little disk for the build": (
        {"llama_cpp_cmake_extra_options": ["-DX=1"], "llama_cpp_build_min_disk_mib": 10**9},
        "building llama.cpp needs 1000000000. Make room there",
    ),
    "too little memory for the build": (
        {"llama_cpp_cmake_extra_options": ["-DX=1"], "llama_cpp_build_min_ram_mib": 10**9},
        "building llama.cpp needs 1000000000. Stop what uses the memory",
    ),
    "an unknown backend": (
        {"llama_cpp_backend": "rocm"},
        "value of llama_cpp_backend must be one of: cuda, cpu",
    ),
    "an index instead of a UUID": (
        {"llama_cpp_backend": "cuda", "llama_server_gpus": [{"uuid": "0"}]},
        "0 is not the UUID of a GPU",
    ),
    "an architecture without kernels": (
        {"llama_cpp_backend": "cuda", "llama_cpp_cuda_arch": "52-real;61-real"},
        'llama_cpp_cuda_arch is "52-real;61-real", and 52-real is none',
    ),
    "a CUDA without Pascal": (
        {"llama_cpp_backend": "cuda", "llama_cpp_cuda_version": "13.0"},
        "CUDA 13 has dropped Pascal",
    ),
    "no compiler for CUDA beside a driver of one's own": (
        {"llama_cpp_backend": "cuda"},
        "rig1 has no nvcc; Debian's is not installed beside a driver that is not Debian's",
    ),
    "no version kept to go back to": (
        {"llama_cpp_keep_versions": 1},
        "keep 2 at least",
    ),
    "half a UUID": (
        {"llama_server_gpus": [{"uuid": "GPU-10600000-4000"}]},
        "GPU-10600000-4000 is not the UUID of a GPU",
    ),
    "a card twice": (
        {"llama_server_gpus": [{"uuid": CARD}, {"uuid": CARD}]},
        f"({CARD} stands there twice)",
    ),
    "a card that was never there": (
        {"llama_server_gpus": [{"uuid": CARD[:-1] + "9"}]},
        (
            f"rig1 has no card {CARD[:-1]}9, which llama_server_gpus names. Not named there, but in"
            f" the rig: {CARD}"
        ),
    ),
    "an unknown setting of a card": (
        {"llama_server_gpus": [{"uuid": CARD, "contexts": 2}]},
        "llama_server_gpus.contexts. Supported parameters include: ",
    ),
    "a card's number that cannot work": (
        {"llama_server_gpus": [{"uuid": CARD, "slots": 0}]},
        f"slots of {CARD} must be at least 1",
    ),
    "a card's model with a path": (
        {"llama_server_gpus": [{"uuid": CARD, "model_file": "/models/x.gguf"}]},
        "model_file is /models/x.gguf; give the name of a .gguf file",
    ),
    "a port in use on a rig": (
        {"app_port": 22},
        "port 22 (app_port) is in use by",
    ),
    "a setting given twice": (
        {"app_settings": {"PORT": 1}},
        "app_settings must not hold PORT",
    ),
    "a power limit that is none": (
        {"gpu_tune_power_limit_w": "low"},
        "gpu_tune_power_limit_w is 'low'; give watts, from 1 to 1000, or stock",
    ),
    "a power limit out of range": (
        {"gpu_tune_power_limit_w": 59.5},
        (
            "rig1: a power limit of 59.5 W is out of range for"
            " GPU-10600000-0000-4000-8000-000000000001, which takes 60.00 to 140.00 W"
        ),
    ),
    "a power limit out of range for a model": (
        {"gpu_tune_model_power_limits_w": {"P106-100": 300}},
        (
            "rig1: a power limit of 300 W is out of range for"
            " GPU-10600000-0000-4000-8000-000000000001, which takes 60.00 to 140.00 W"
        ),
    ),
    "a CA file that is not there": (
        {"common_extra_ca_file": "/nowhere/ca.pem"},
        "Correct the path or set it to",
    ),
}
FOR_A_GATEWAY: Cases = {
    "a port of the mirror in use": (
        {"model_mirror_port": 22},
        "port 22 (model_mirror_port) is in use by",
    ),
    "a port in use on the gateway": (
        {"gateway_port": 22},
        "port 22 (gateway_port) is in use by",
    ),
    "alerts for nobody": (
        {"alertmanager_webhook_url": ""},
        "nobody is told: set alertmanager_email (to, from, smarthost) or",
    ),
    "half an e-mail": (
        {"alertmanager_email": {"to": "owner@example.org"}},
        "alertmanager_email has to; it needs to, from and smarthost",
    ),
    "a repository that is not there": (
        {"grafana_enabled": True, "grafana_repository_url": "https://127.0.0.1:9"},
        "gateway cannot have Grafana: https://127.0.0.1:9/gpg.key: ",
    ),
}


@pytest.fixture(scope="module")
def plays(fleet: Fleet) -> Iterator[Mapping[str, Future[CompletedProcess[str]]]]:
    """All of these, several at a time: none may change anything, so none is in another's way."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            what: pool.submit(
                fleet.playbook, "--limit", host, "--extra-vars", json.dumps(variables)
            )
            for host, cases in (("rig1", FOR_A_RIG), ("gateway", FOR_A_GATEWAY))
            for what, (variables, _) in cases.items()
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("what", [*FOR_A_RIG, *FOR_A_GATEWAY])
def test_bad_input_is_refused(
    plays: Mapping[str, Future[CompletedProcess[str]]], what: str
) -> None:
    _, message = (FOR_A_RIG | FOR_A_GATEWAY)[what]
    assert message in refusals(plays[what].result())


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
        playbook="tests/fleet/gateway.yml",
    )
    assert done.returncode != 0
    assert "client_max_body_size" in done.stdout + done.stderr
    assert fleet.ssh("gateway", site) == before
    # As it is on the disk it would serve after a restart, too.
    fleet.ssh("gateway", "nginx -t -q && systemctl reload nginx")
    assert chat(fleet, max_tokens=5).ok
    fleet.playbook(playbook="tests/fleet/gateway.yml")


def allows(fleet: Fleet, origin: str) -> bool:
    answer = requests.get(f"{fleet.url}/health", headers={"Origin": origin}, timeout=10)
    return answer.headers.get("Access-Control-Allow-Origin") == origin


def test_what_was_written_before_a_play_fails_is_served(fleet: Fleet, tmp_path: Path) -> None:
    origin = "https://chat.example"
    file = tmp_path / "variables.yml"
    file.write_text(json.dumps({"gateway_cors_origins": [origin], "fail_after_gateway": True}))
    done = fleet.playbook("--extra-vars", f"@{file}", playbook="tests/fleet/gateway.yml")
    try:
        assert done.returncode != 0
        assert "fails after the role" in done.stdout
        wait_for(lambda: allows(fleet, origin), "nginx has read what the role wrote")
    finally:
        fleet.playbook(playbook="tests/fleet/gateway.yml")


def test_a_card_below_the_minimum_is_refused(fleet: Fleet) -> None:
    fleet.ssh("rig2", "simulated-cards set 0 memory_total_mib=4 memory_reserved_mib=0")
    try:
        message = refusals(fleet.playbook("--extra-vars", "llama_server_n_gpu_layers=33"))
    finally:
        fleet.ssh("rig2", "simulated-cards set 0 memory_total_mib=8192 memory_reserved_mib=76")
    assert "(NVIDIA P104-100, 4 MiB) cannot hold counting.gguf (6 MiB)" in message
    assert "playbooks/plan.yml says what it can" in message


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
    assert "rig1: there is no model: set model_name and model_quantisation" in message


def test_a_truncated_model_on_a_rig_is_refused(fleet: Fleet) -> None:
    directory = "/var/lib/heartcode/models"
    fleet.ssh("rig2", f"head -c 100000 {directory}/counting.gguf > {directory}/half.gguf")
    fleet.ssh("rig1", f"ln {directory}/counting.gguf {directory}/half.gguf")
    try:
        message = refusals(
            fleet.playbook("--extra-vars", str({"model_src": "", "model_file": "half.gguf"}))
        )
    finally:
        for rig in fleet.rigs:
            fleet.ssh(rig, f"rm {directory}/half.gguf")
    assert "rig2: /var/lib/heartcode/models/half.gguf is no usable GGUF" in message
    assert "Put a whole one there" in message


def test_a_rig_without_room_for_the_model_is_refused(fleet: Fleet) -> None:
    directory = "/var/lib/heartcode/models"
    fleet.ssh("rig1", f"mount -t tmpfs -o size=64m tmpfs {directory}")
    try:
        message = refusals(fleet.playbook())
    finally:
        fleet.ssh("rig1", f"umount {directory}")
    assert f"rig1 has 64.00 MB free for {directory}, and counting.gguf needs 5.07 MB," in message
    assert "Make room there" in message


def test_an_unsupported_system_is_refused(fleet: Fleet) -> None:
    fleet.ssh(
        "rig2",
        "cp /etc/os-release /root/ && sed 's/ID=debian/ID=ubuntu/;s/Debian/Ubuntu/'"
        " /root/os-release > /run/os-release && mount --bind /run/os-release /etc/os-release",
    )
    try:
        message = refusals(fleet.playbook())
    finally:
        fleet.ssh("rig2", "umount /etc/os-release && rm /run/os-release /root/os-release")
    assert "rig2 runs Ubuntu" in message
    assert "HeartCode deploys to Debian 12 or 13" in message


def test_a_failed_build_leaves_the_old_version_serving(fleet: Fleet) -> None:
    current = "readlink /opt/heartcode/llama.cpp/current"
    before = [fleet.ssh(rig, current) for rig in fleet.rigs]
    done = fleet.playbook(
        "--limit",
        "rigs",
        "--extra-vars",
        str({"llama_cpp_cmake_extra_options": ["-DCMAKE_CXX_COMPILER=false"]}),
    )
    assert done.returncode != 0
    output = " ".join(done.stdout.split())
    assert "Building llama.cpp failed on rig1" in output
    assert "the installed version goes on serving" in output
    assert [fleet.ssh(rig, current) for rig in fleet.rigs] == before
    answer = chat(fleet, max_tokens=5).json()
    assert answer["choices"][0]["message"]["content"].split() == count_to(5)
