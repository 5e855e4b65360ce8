"""The fleet as the page /status can meet it: at work, without a card, without a rig."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.fleet.harness import Fleet, wait_for

#: What the simulated cards tell while their backends compute, in the order of each rig's cards.
AT_WORK = {
    "rig1": [
        "temperature=63 power_draw_w=87 memory_used_mib=5168 utilization_gpu=71",
        "temperature=66 power_draw_w=92 memory_used_mib=5210 utilization_gpu=78",
    ],
    "rig2": [
        "temperature=61 power_draw_w=128 memory_used_mib=6480 utilization_gpu=66",
        "temperature=69 power_draw_w=84 memory_used_mib=5190 utilization_gpu=69",
    ],
}


def put_to_work(fleet: Fleet) -> None:
    """Let the cards tell what real ones tell that have a model loaded."""
    for rig, cards in AT_WORK.items():
        for number, values in enumerate(cards):
            fleet.ssh(rig, f"simulated-cards set {number} {values}")


@contextmanager
def without_a_card(fleet: Fleet) -> Iterator[None]:
    """Let rig2's second card fall off the bus, and bring it back."""
    fleet.ssh("rig2", "simulated-cards lose 1")
    try:
        # What a timer does each minute.
        fleet.ssh("rig2", "systemctl start heartcode-card@1.service")
        yield
    finally:
        fleet.ssh("rig2", "simulated-cards restore 1")
    fleet.ssh("rig2", "systemctl start heartcode-card@1.service")
    wait_for(
        lambda: fleet.state("rig2", "heartcode-llama@1.service") == "active",
        "the card's backend is back",
        timeout_s=180,
    )


@contextmanager
def without_a_rig(fleet: Fleet) -> Iterator[None]:
    """Cut rig2's power, and switch it on again."""
    fleet.tool("stop", "rig2")
    try:
        yield
    finally:
        fleet.tool("start", "rig2")
    for number in range(2):
        unit = f"heartcode-llama@{number}.service"
        wait_for(
            lambda: fleet.state("rig2", unit) == "active",  # noqa: B023
            f"{unit} serves again",
            timeout_s=300,
        )
