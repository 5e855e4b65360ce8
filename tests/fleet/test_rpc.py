"""A rig whose model is on another host's devices too: deployed, asked, broken and put back.

The gateway's machine is the helper and lends its CPU; the rig's llama-server has all of its layers
there. The rig beside it serves the same model alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.counting import chat, count_to
from tests.fleet.harness import ROOT, Fleet, wait_for
from tests.fleet.test_outliving import STREAMS, Reader, assert_another_rig_went_on
from tests.fleet.test_units import assert_is_locked_in, main_pid

pytestmark = pytest.mark.long

HELPER, LEADER, OTHER = "gateway", "rig2", "rig1"
LENT, BACKEND = "heartcode-rpc@0.service", "heartcode-llama@0.service"
PORT = 50052

#: Beside inventory/virtual. The gateway's machine has no simulated cards.
GROUPS: dict[str, Any] = {
    "rigs": {"hosts": {LEADER: {"llama_server_helpers": [HELPER]}}},
    "helpers": {"hosts": {HELPER: {"gpu_driver_mode": "none", "gpu_tune_enabled": False}}},
}


def deploy(
    fleet: Fleet, *arguments: str | Path, inventory: Path = ROOT / "inventory/virtual"
) -> str:
    done = fleet.playbook(*map(str, arguments), inventory=inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("inventory") / "helpers.yml"
    file.write_text(yaml.safe_dump({"all": {"children": GROUPS}}))
    return file


@pytest.fixture(scope="module", autouse=True)
def lent(fleet: Fleet, groups: Path) -> Iterator[None]:
    """The helper's devices are lent to the rig, and its own again at the end."""
    try:
        # The helper is new: nothing of what its role needs is there.
        deploy(fleet, "-i", groups, "--check")
        deploy(fleet, "-i", groups)
        yield
    finally:
        deploy(fleet)
    assert fleet.ssh(HELPER, "ls /etc/heartcode/rpc", check=False) == ""


def backends(fleet: Fleet) -> list[dict[str, Any]]:
    """What the leader's proxy tells of its backends."""
    told = json.loads(fleet.ssh(LEADER, "curl -fsS http://127.0.0.1:8080/fleet"))
    found: list[dict[str, Any]] = told["rigs"][0]["backends"]
    return found


def states(fleet: Fleet) -> list[str]:
    return [one["state"] for one in backends(fleet)]


def look_after(fleet: Fleet) -> None:
    """What the backend's timer does each minute: it asks the helper, or looks at the connection."""
    fleet.ssh(LEADER, "systemctl start heartcode-card@0.service", check=False)


def wait_until_it_generates(fleet: Fleet) -> None:
    wait_for(lambda: states(fleet) == ["up"], "it generates", 180)


def callers(fleet: Fleet) -> set[str]:
    """Who is connected to what is lent."""
    told = fleet.ssh(HELPER, f"ss --no-header --tcp --numeric '( sport = :{PORT} )'")
    return {line.split()[4].rsplit(":", 1)[0] for line in told.splitlines()}


def test_the_rig_has_one_backend_with_what_is_lent_first(fleet: Fleet) -> None:
    address = fleet.addresses[HELPER]
    assert fleet.state(HELPER, LENT) == fleet.state(LEADER, BACKEND) == "active"
    assert fleet.ssh(LEADER, "ls /etc/heartcode/llama/*.env").count(".env") == 1
    settings = fleet.ssh(LEADER, "cat /etc/heartcode/llama/0.env").splitlines()
    assert f'HEARTCODE_RPC="{HELPER}={address}:{PORT}/1"' in settings
    (uuids,) = (line for line in settings if line.startswith("HEARTCODE_GPU_UUID="))
    assert uuids.startswith(f"HEARTCODE_GPU_UUID=cpu@{HELPER}")
    assert callers(fleet) == {fleet.addresses[LEADER]}
    wait_until_it_generates(fleet)
    answer = chat(f"http://{fleet.addresses[LEADER]}:8080", max_tokens=30).json()
    assert answer["choices"][0]["message"]["content"].split() == count_to(30)


def test_what_is_deployed_is_left_alone(fleet: Fleet, groups: Path) -> None:
    before, since = (fleet.starts(), main_pid(fleet, HELPER, LENT)), fleet.cursor(LEADER)
    look_after(fleet)
    assert fleet.ssh(LEADER, "ls /run/heartcode/hung") == ""
    said = fleet.journal(LEADER, since, "--unit=heartcode-card@0.service")
    assert "Traceback" not in said
    assert "is gone" not in said
    told = deploy(fleet, "-i", groups)
    changed = dict(re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", told, re.MULTILINE))
    assert changed == dict.fromkeys((*fleet.addresses, "localhost"), "0"), told
    assert (fleet.starts(), main_pid(fleet, HELPER, LENT)) == before


def test_its_leader_alone_reaches_it(fleet: Fleet) -> None:
    listening = f"ss --no-header --listening --tcp --numeric '( sport = :{PORT} )'"
    (socket,) = fleet.ssh(HELPER, listening).splitlines()
    assert socket.split()[3] == f"{fleet.addresses[HELPER]}:{PORT}"
    knock = f"bash -c '</dev/tcp/{fleet.addresses[HELPER]}/{PORT}' 2>&1"
    assert "Connection refused" in fleet.ssh(OTHER, knock, check=False)
    assert callers(fleet) == {fleet.addresses[LEADER]}
    asked = "--property=IPAddressAllow --property=IPAddressDeny"
    shown = fleet.ssh(HELPER, f"systemctl show --value {asked} {LENT}").split()
    # systemd lists them in an order of its own.
    assert sorted(shown) == sorted([f"{fleet.addresses[LEADER]}/32", "0.0.0.0/0", "::/0"])


def test_it_is_locked_in_and_limited(fleet: Fleet) -> None:
    assert_is_locked_in(fleet, HELPER, LENT)
    limit = fleet.ssh(HELPER, f"systemctl show --value --property=MemoryMax {LENT}")
    assert int(limit) > 256 * 2**20


def test_prometheus_knows_the_helper(fleet: Fleet) -> None:
    wait_for(
        lambda: [one["value"][1] for one in fleet.metrics('up{job="helper"}')] == ["1"],
        "its exporter is scraped",
    )


@pytest.mark.usefixtures("disturbs")
def test_streams_outlive_what_is_lent(fleet: Fleet) -> None:
    before = main_pid(fleet, HELPER, LENT)
    since = fleet.cursor("gateway")
    streams = [Reader(fleet, number) for number in range(STREAMS)]
    try:
        wait_for(lambda: fleet.signal_working("CONT", LEADER), "the leader works on a stream")
        fleet.ssh(HELPER, f"systemctl kill --signal=KILL {LENT}")
    finally:
        for stream in streams:
            stream.finish()
    assert_another_rig_went_on(fleet, streams, since)
    wait_for(lambda: fleet.state(HELPER, LENT) == "active", "it is lent again", 60)
    assert main_pid(fleet, HELPER, LENT) != before
    wait_until_it_generates(fleet)
    assert callers(fleet) == {fleet.addresses[LEADER]}


@pytest.mark.usefixtures("disturbs")
def test_a_start_without_the_helper_waits_for_it_and_names_it(fleet: Fleet) -> None:
    fleet.ssh(HELPER, f"systemctl stop {LENT}")
    try:
        look_after(fleet)
        wait_for(lambda: states(fleet) == ["gone"], "the backend is in quarantine", 120)
        wait_for(lambda: fleet.state(LEADER, BACKEND) == "failed", "its unit knows it too", 60)
        (backend,) = backends(fleet)
        assert backend["gone"].startswith(f"cpu@{HELPER}: {HELPER}: ")
        # Nobody else's answer waits for it.
        answer = chat(fleet, max_tokens=5).json()
        assert answer["choices"][0]["message"]["content"].split() == count_to(5)
    finally:
        fleet.ssh(HELPER, f"systemctl start {LENT}")
    look_after(fleet)
    wait_until_it_generates(fleet)
