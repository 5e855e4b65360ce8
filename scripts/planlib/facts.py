"""Plans for the hosts of an inventory, from what playbooks/plan.yml has asked them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from planlib.cards import X1_LINK, Card, Rig, make_card
from planlib.errors import PlanError
from planlib.read_model import find_models
from planlib.rig_plan import RigPlan, plan_rig
from planlib.settings import HandSet
from planlib.units import MIB

#: Columns of the nvidia-smi query in playbooks/plan.yml.
QUERY = (
    "uuid",
    "name",
    "memory.total",
    "memory.reserved",
    "pcie.link.gen.max",
    "pcie.link.width.current",
)
#: Bytes/s of one PCIe lane by generation, after its encoding.
_LANE = {1: 250e6, 2: 500e6, 3: 985e6, 4: 1969e6, 5: 3938e6}
#: A P106-100 in lspci: "NVIDIA Corporation GP106 [P106-100] (rev a1)".
_LSPCI = re.compile(r"NVIDIA Corporation [^\[]*\[(?:GeForce )?([^\]]+)\]")


def plan_fleet(facts: Any, hand: HandSet) -> list[RigPlan]:
    """A plan for each host.

    Args:
        facts: A list of hosts as playbooks/plan.yml writes it.
        hand: What is fixed for all of them; the inventory's own values come before it.

    Raises:
        PlanError: a host lacks what has to be known, or its inventory contradicts itself.
    """
    if not isinstance(facts, list) or not facts:
        raise PlanError("there are no rigs to plan for; is the inventory's group `rigs` empty?")
    return [_plan_host(host, hand) for host in facts]


def _plan_host(host: Mapping[str, Any], hand: HandSet) -> RigPlan:
    name = str(host.get("name", "?"))
    variables: Mapping[str, Any] = host.get("variables") or {}
    own = HandSet.from_mapping(
        {key.removeprefix("llama_server_"): value for key, value in variables.items()}, name
    ).over(hand)
    listed = variables.get("llama_server_gpus") or []
    rig = _rig(name, host, listed)
    by_uuid = {
        str(gpu.get("uuid")): HandSet.from_mapping(gpu, f"{name}, card {gpu.get('uuid')}")
        for gpu in listed
    }
    by_card = [by_uuid.get(card.uuid, HandSet()) for card in rig.cards]
    models = find_models(str(host.get("model") or "8B"))
    return plan_rig(rig, models, own, by_card)


def _rig(name: str, host: Mapping[str, Any], listed: Sequence[Mapping[str, Any]]) -> Rig:
    described = host.get("cards")
    if described:
        from planlib.description import parse_rig  # noqa: PLC0415

        cards: tuple[Card, ...] = parse_rig(str(described)).cards
        assumed: tuple[str, ...] = ("its cards are those of plan_cards, not measured",)
    else:
        cards, assumed = _measured(name, host, [str(gpu.get("uuid")) for gpu in listed])
    disk = host.get("disk_bytes")
    return Rig(
        name=name,
        cards=cards,
        ram=int(host["ram_mib"]) * MIB,
        cores=int(host["cores"]),
        disk=int(disk) if disk is not None else None,
        assumed=assumed,
    )


def _measured(
    name: str, host: Mapping[str, Any], uuids: list[str]
) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The cards that the host shows; those of the inventory, in its order, where it lists some."""
    cards = [card for line in host.get("nvidia_smi") or [] if (card := parse_nvidia_smi(line))]
    if cards:
        by_uuid = {card.uuid: card for card in cards}
        wanted = [by_uuid[uuid] for uuid in uuids if uuid in by_uuid]
        missing = [uuid for uuid in uuids if uuid not in by_uuid]
        notes = tuple(f"card {uuid} of the inventory is not in the host" for uuid in missing)
        return tuple(wanted or cards), notes
    cards = [card for line in host.get("lspci") or [] if (card := _parse_lspci(line))]
    if cards:
        return tuple(cards), (
            "no nvidia-smi there: cards are known from lspci, their memory from the planner's list",
        )
    raise PlanError(
        f"{name} shows no NVIDIA cards to nvidia-smi or lspci. Give them in the inventory or with"
        " -e, for example plan_cards='P106-100 x 6'."
    )


def parse_nvidia_smi(line: str) -> Card | None:
    """A card from a line of ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits``.

    A field that the card does not support is ``[N/A]`` or ``[Not Supported]``. None where the line
    says no memory: a card that is falling off the bus.
    """
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(QUERY):
        return None
    uuid, name, total, reserved, generation, width = fields
    if not total.isdigit():
        return None
    # Drivers from 510 on count what they keep for themselves into the total.
    vram = int(total) - (int(reserved) if reserved.isdigit() else 0)
    link = 0
    if generation.isdigit() and width.isdigit():
        link = int(_LANE.get(int(generation), X1_LINK) * int(width))
    return make_card(name, vram=vram * MIB, link=link, uuid=uuid)


def _parse_lspci(line: str) -> Card | None:
    found = _LSPCI.search(line)
    return make_card(found[1]) if found else None
