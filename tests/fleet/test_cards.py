"""The simulated cards of the rigs: what the driver says there, to people and to services."""

import yaml

from tests.fleet.harness import ROOT, Fleet

# How a service of ours is locked in, as far as it matters to the driver's library.
SANDBOX = (
    "-p DynamicUser=yes -p ProtectSystem=strict -p PrivateTmp=yes -p PrivateUsers=yes"
    " -p DevicePolicy=closed -p MemoryDenyWriteExecute=yes -p SystemCallFilter=@system-service"
)


def uuids(fleet: Fleet, rig: str, command: str = "nvidia-smi") -> list[str]:
    said = fleet.ssh(rig, f"{command} --query-gpu=uuid --format=csv,noheader", check=False)
    return [line for line in said.splitlines() if line.startswith("GPU-")]


def test_a_rig_has_the_cards_of_its_inventory(fleet: Fleet) -> None:
    for rig in fleet.rigs:
        variables = yaml.safe_load((ROOT / f"inventory/virtual/host_vars/{rig}.yml").read_text())
        assert uuids(fleet, rig) == [gpu["uuid"] for gpu in variables["llama_server_gpus"]]


def test_a_service_sees_the_cards_unless_the_devices_are_hidden_from_it(fleet: Fleet) -> None:
    run = f"systemd-run --quiet --wait --pipe --collect {SANDBOX}"
    assert uuids(fleet, "rig1", f"{run} nvidia-smi") == uuids(fleet, "rig1")
    assert uuids(fleet, "rig1", f"{run} -p PrivateDevices=yes nvidia-smi") == []


def test_a_card_is_lost_and_comes_back(fleet: Fleet) -> None:
    whole = uuids(fleet, "rig2")
    fleet.ssh("rig2", "simulated-cards lose 1")
    try:
        assert uuids(fleet, "rig2") == whole[:1]
    finally:
        fleet.ssh("rig2", "simulated-cards restore 1")
    assert uuids(fleet, "rig2") == whole
