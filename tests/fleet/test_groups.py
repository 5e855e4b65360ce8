"""A backend of two cards beside a single one, in units, metrics, /fleet and the health check.

The cards are simulated, and the backends compute on the CPU: what is seen here is how a group is
looked after.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.counting import chat, count_to
from tests.fleet.harness import RIG, Fleet, wait_for
from tests.fleet.test_cards import limits, uuids, uuids_of_inventory
from tests.health_check import check, row

pytestmark = pytest.mark.ci

RIG1, GROUP, ALONE = "rig1", "heartcode-llama@0.service", "heartcode-llama@1.service"
THIRD = "GPU-10600000-0000-4000-8000-0000000000fd"
NEW = "GPU-10600000-0000-4000-8000-0000000000fc"


def deploy(fleet: Fleet, gpus: list[dict[str, Any]]) -> str:
    """Give the rig other backends; return what Ansible says, on one line."""
    return " ".join(fleet.deploy(*RIG, "gpu_tune", limit=RIG1, llama_server_gpus=gpus).split())


@pytest.fixture(scope="module")
def cards(fleet: Fleet) -> Iterator[list[str]]:
    """The group's cards; a third one has been plugged in, which is alone."""
    old = uuids_of_inventory(RIG1)
    models = " ".join(f"P106-100={uuid}" for uuid in [*old, THIRD])
    plug = "rm -rf /etc/simulated-pci && simulated-cards bus /etc/simulated-pci"
    fleet.ssh(
        RIG1,
        f"cp /etc/simulated-gpus.json /root/ && simulated-cards make {models} && {plug}",
    )
    try:
        # Each way of naming a card; backend 1 has had the second, and gets the third.
        deploy(fleet, [{"gpus": [old[0], "02:00.0"]}, {"pci_order": 2}])
        yield old
    finally:
        fleet.ssh(RIG1, f"mv /root/simulated-gpus.json /etc/ && {plug}")
        deploy(fleet, [{"uuid": uuid} for uuid in old])
        # As they left the factory, they have no power limit.
        fleet.ssh(RIG1, "systemctl restart heartcode-gpu-tune")


def backends(fleet: Fleet) -> list[dict[str, Any]]:
    """What the rig's proxy tells of its backends."""
    told = json.loads(fleet.ssh(RIG1, "curl -fsS http://127.0.0.1:8080/fleet"))
    found: list[dict[str, Any]] = told["rigs"][0]["backends"]
    return found


def states(fleet: Fleet) -> list[str]:
    return [backend["state"] for backend in backends(fleet)]


def values(fleet: Fleet, metric: str) -> dict[str, str]:
    """A metric of the rig's cards as Prometheus knows it, by the card's label."""
    found = fleet.metrics(f'{metric}{{rig="{RIG1}"}}')
    return {one["metric"]["gpu"]: one["value"][1] for one in found}


def is_told(fleet: Fleet, metric: str, told: dict[str, str]) -> Callable[[], bool]:
    return lambda: values(fleet, metric) == told


def look_after(fleet: Fleet) -> None:
    """What the group's timer does each minute."""
    fleet.ssh(RIG1, "systemctl start heartcode-card@0.service", check=False)


def test_two_cards_are_one_backend_beside_a_card_that_is_alone(
    fleet: Fleet, cards: list[str]
) -> None:
    settings = fleet.ssh(RIG1, "cat /etc/heartcode/llama/0.env")
    assert f"HEARTCODE_GPU_UUID={cards[0]}+{cards[1]}" in settings.splitlines()
    assert fleet.state(RIG1, GROUP) == fleet.state(RIG1, ALONE) == "active"
    assert fleet.ssh(RIG1, "ls /etc/heartcode/llama/*.env").count(".env") == 2
    wait_for(lambda: states(fleet) == ["up", "up"], "both generate")
    assert [backend["cards"] for backend in backends(fleet)] == [cards, [THIRD]]
    wait_for(is_told(fleet, "gpu_up", {"0.0": "1", "0.1": "1", "1": "1"}), "the cards are known")
    assert values(fleet, "gpu_quarantined") == {"0.0": "0", "0.1": "0", "1": "0"}
    # Each card of the group has the limit that a card alone would have.
    assert len({now for now, _ in limits(fleet, RIG1)}) == 1
    assert limits(fleet, RIG1)[0][0] != limits(fleet, RIG1)[0][1]
    done = check(fleet.url, fleet.key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 5 cards of 2 rigs serve" in done.stdout
    assert row(done, RIG1, "0")[1:4] == ["0", "(2", "cards)"]


@pytest.mark.usefixtures("disturbs")
def test_a_card_of_a_group_is_gone_and_comes_back(fleet: Fleet, cards: list[str]) -> None:
    """The group is down, the card beside it serves on, and all who tell of it name the card."""
    before, limited = fleet.starts(), limits(fleet, RIG1)
    fleet.ssh(RIG1, "simulated-cards lose 1")
    try:
        look_after(fleet)
        wait_for(lambda: fleet.state(RIG1, GROUP) == "failed", "the unit gives up", timeout_s=120)
        status = fleet.ssh(RIG1, f"systemctl show --value --property=ExecMainStatus {GROUP}")
        assert status == "69"
        sign = fleet.ssh(RIG1, "cat /run/heartcode/llama/0.quarantined")
        assert sign == f"{cards[1]}: nvidia-smi lists other cards, but not this one"
        group, alone = backends(fleet)
        assert (group["state"], group["gone"]) == ("gone", sign)
        assert alone["state"] == "up"
        wait_for(
            is_told(fleet, "gpu_quarantined", {"0.0": "0", "0.1": "1", "1": "0"}), "it is named"
        )
        wait_for(is_told(fleet, "gpu_up", {"0.0": "1", "0.1": "0", "1": "1"}), "it is not up")
        alert = f'ALERTS{{alertname="HeartCodeCardGone",rig="{RIG1}"}}'
        pending = wait_for(lambda: fleet.metrics(alert), "the alert is at least pending")
        assert [one["metric"]["backend"] for one in pending] == ["127.0.0.1:8081"]
        done = check(fleet.url, fleet.key)
        assert done.returncode == 3, done.stdout + done.stderr
        assert (
            f"3 of 5 cards serve: backend 0 of {RIG1} with 2 cards lacks {cards[1]}" in done.stdout
        )
        for _ in range(6):
            answer = chat(fleet, max_tokens=5).json()
            assert answer["choices"][0]["message"]["content"].split() == count_to(5)
        # A look at them while one is still gone starts nothing.
        look_after(fleet)
        assert fleet.state(RIG1, GROUP) == "failed"
        assert fleet.started_again(before) == {(RIG1, GROUP)}
    finally:
        fleet.ssh(RIG1, "simulated-cards restore 1")
    look_after(fleet)
    wait_for(lambda: fleet.state(RIG1, GROUP) == "active", "it comes back", timeout_s=120)
    wait_for(lambda: states(fleet) == ["up", "up"], "both generate")
    wait_for(is_told(fleet, "gpu_quarantined", {"0.0": "0", "0.1": "0", "1": "0"}), "it is known")
    assert limits(fleet, RIG1) == limited
    assert fleet.started_again(before) == {(RIG1, GROUP)}


@pytest.mark.usefixtures("disturbs")
def test_the_card_beside_a_group_is_gone(fleet: Fleet, cards: list[str]) -> None:
    assert cards
    before = fleet.starts()
    fleet.ssh(RIG1, "simulated-cards lose 2")
    try:
        fleet.ssh(RIG1, "systemctl start heartcode-card@1.service", check=False)
        wait_for(lambda: states(fleet) == ["up", "gone"], "the group serves on", timeout_s=120)
        assert fleet.started_again(before) == {(RIG1, ALONE)}
    finally:
        fleet.ssh(RIG1, "simulated-cards restore 2")
        fleet.ssh(RIG1, "systemctl start heartcode-card@1.service", check=False)
    wait_for(lambda: states(fleet) == ["up", "up"], "both generate", timeout_s=120)


@pytest.mark.usefixtures("disturbs")
def test_a_card_of_a_group_is_replaced_and_the_neighbour_is_left_alone(
    fleet: Fleet, cards: list[str]
) -> None:
    """The deployment goes on without the group; with the new card it is the same group again."""
    before = fleet.starts()
    named: list[dict[str, Any]] = [{"gpus": [0, 1]}, {"pci_order": 2}]
    proxy = {(RIG1, "heartcode-exporter.service")}  # shares its settings with the proxy
    fleet.ssh(RIG1, "simulated-cards lose 1")
    try:
        look_after(fleet)
        wait_for(lambda: fleet.state(RIG1, GROUP) == "failed", "the unit gives up", timeout_s=120)
        said = deploy(fleet, named)
        assert f"{RIG1} serves without card {cards[1]}: {GROUP} is in quarantine" in said
        assert fleet.started_again(before) == {(RIG1, GROUP)}
        fleet.ssh(RIG1, f"simulated-cards restore 1 && simulated-cards set 1 uuid={NEW}")
        deploy(fleet, named)
        assert fleet.state(RIG1, GROUP) == "active"
        assert [backend["cards"] for backend in backends(fleet)] == [[cards[0], NEW], [THIRD]]
        assert fleet.started_again(before) == {(RIG1, GROUP)} | proxy
    finally:
        fleet.ssh(RIG1, f"simulated-cards set 1 uuid={cards[1]}; simulated-cards restore 1")
        deploy(fleet, named)
    assert uuids(fleet, RIG1) == [*cards, THIRD]
    assert fleet.state(RIG1, GROUP) == "active"
