"""heartcode-gpu-tune.service on the rigs: the modes of the simulated cards."""

import pytest

from tests.fleet.harness import Fleet

UNIT = "heartcode-gpu-tune.service"


def modes(fleet: Fleet, rig: str) -> list[str]:
    return fleet.ssh(
        rig, "nvidia-smi --query-gpu=power.limit,persistence_mode --format=csv,noheader"
    ).splitlines()


def forget(fleet: Fleet, rig: str) -> None:
    """As a boot does."""
    fleet.ssh(rig, "rm /dev/simulated-gpus.settings")


def test_cards_have_their_model_s_limit_after_a_boot_too(fleet: Fleet) -> None:
    tuned = ["130.00 W, Enabled", "90.00 W, Enabled"]
    assert modes(fleet, "rig2") == tuned
    forget(fleet, "rig2")
    assert modes(fleet, "rig2") == ["180.00 W, Disabled", "120.00 W, Disabled"]
    fleet.ssh("rig2", f"systemctl restart {UNIT}")
    assert modes(fleet, "rig2") == tuned


def test_it_comes_before_the_backends(fleet: Fleet) -> None:
    show = "systemctl show --value --property=After heartcode-llama@0"
    assert UNIT in fleet.ssh("rig1", show).split()
    assert fleet.ssh("rig1", f"systemctl is-enabled {UNIT}") == "enabled"


def test_a_lost_card_does_not_keep_the_others_from_it(fleet: Fleet) -> None:
    since = fleet.cursor("rig2")
    fleet.ssh("rig2", "simulated-cards lose 0")
    forget(fleet, "rig2")
    try:
        fleet.ssh("rig2", f"systemctl restart {UNIT}")
        said = fleet.journal("rig2", f"--unit={UNIT}", since)
        assert "GPU is lost; this card is left as it is" in said
    finally:
        fleet.ssh("rig2", "simulated-cards restore 0")
    assert modes(fleet, "rig2") == ["180.00 W, Disabled", "90.00 W, Enabled"]
    fleet.ssh("rig2", f"systemctl restart {UNIT}")
    assert modes(fleet, "rig2") == ["130.00 W, Enabled", "90.00 W, Enabled"]


@pytest.mark.long
def test_the_inventory_decides_and_only_what_differs_is_set(fleet: Fleet) -> None:
    try:
        said = fleet.deploy("gpu_tune", limit="rig1", gpu_tune_power_limit_w=100)
        assert "power limit: 90 W -> 100 W" in said
        assert "persistence mode:" not in said
        assert modes(fleet, "rig1") == ["100.00 W, Enabled"] * 2
    finally:
        fleet.deploy("gpu_tune", limit="rig1")
    assert modes(fleet, "rig1") == ["90.00 W, Enabled"] * 2
