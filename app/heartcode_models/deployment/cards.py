"""The cards of a rig's backends, as the rig shows them or as they were last deployed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from heartcode_models.planner.cards import AT, CPU, UNTOLD, Card, is_too_old, make_card, uuids_of
from heartcode_models.planner.facts import capability_of, from_nvidia_smi, from_sysfs
from heartcode_models.planner.grouping import mixed
from heartcode_models.planner.host_ram import room_of_the_cpu
from heartcode_models.planner.layer_split import Cards
from heartcode_models.units import MIB

#: The cards of a backend; None is one whose memory is not known before a driver tells it.
MaybeCards = tuple[Card | None, ...]


def cards_of(host: Mapping[str, Any]) -> list[MaybeCards]:
    """The cards of each backend; where the host computes it has one that stands for its RAM."""
    gpus: Sequence[Mapping[str, Any]] = host["gpus"]
    if host["backend"] == "cpu":
        room = room_of_the_cpu(int(host["ram_mib"]) * MIB, len(gpus))
        return [(Card(name="CPU", vram=room, uuid=gpu["uuid"], generation=CPU),) for gpu in gpus]
    seen = {card.uuid: card for line in host["nvidia_smi"] if (card := from_nvidia_smi(line))}
    for uuid, told in _bus(host).items():
        if card := from_sysfs(told):
            seen[uuid] = replace(card, uuid=uuid)
    for former in host["former"]:
        told_cards = former.get("cards") or [former.get("card")]
        # Where the host computed then, nobody has looked at the cards, and there is one for all.
        for uuid, told_card in zip(uuids_of(former["uuid"]), told_cards, strict=False):
            if told_card and told_card["name"] != CPU.name:
                seen.setdefault(uuid, _remembered(uuid, told_card))
    groups = [uuids_of(str(gpu["uuid"])) for gpu in gpus]
    known = [seen.get(uuid) for group in groups for uuid in group]
    return [tuple(seen.get(uuid) or _like(known, uuid) for uuid in group) for group in groups]


def all_known(cards: Sequence[MaybeCards]) -> list[Cards]:
    """The same, where all of them are known."""
    return [tuple(card for card in group if card) for group in cards]


def named(
    gpus: Sequence[Mapping[str, Any]], cards: Sequence[MaybeCards]
) -> Iterator[tuple[str, Card | None]]:
    """Each card with its name in the inventory."""
    for gpu, group in zip(gpus, cards, strict=True):
        yield from zip(uuids_of(str(gpu["uuid"])), group, strict=False)


def mixed_groups(gpus: Sequence[Mapping[str, Any]], cards: Sequence[MaybeCards]) -> tuple[str, ...]:
    """A sentence for each group of cards that cannot be one."""
    return tuple(
        f"the group {gpu['uuid']} of llama_server_gpus {fault}"
        for gpu, group in zip(gpus, cards, strict=True)
        if (known := tuple(card for card in group if card)) and (fault := mixed(known))
    )


def _like(known: Sequence[Card | None], uuid: str) -> Card | None:
    """For a card that has dropped out before anything was remembered: one like another of the rig.

    It serves nothing until it is back, and has its share of the host meanwhile.
    """
    other = next((card for card in known if card), None)
    return replace(other, uuid=uuid) if other and not uuid.startswith(UNTOLD) else None


def _bus(host: Mapping[str, Any]) -> dict[str, str]:
    """What the bus tells of each card, by the name that a card has there."""
    lines = (line.partition(" ") for line in host["bus"])
    return {UNTOLD + place: told for place, _, told in lines}


def _remembered(uuid: str, told: Mapping[str, Any]) -> Card:
    """A card that does not answer any more, as it was at the last deployment.

    It keeps its backend, and its share of the host: the others would be planned anew without it.
    """
    card = make_card(
        told["name"],
        vram=int(told["vram_mib"]) * MIB,
        link=int(told["link"]),
        uuid=uuid,
        capability=told["capability"],
    )
    assert card is not None  # noqa: S101 (its memory is given)
    return card


def too_old(cards: Sequence[MaybeCards]) -> tuple[str, ...]:
    """A sentence for each card that llama.cpp's kernels are not for."""
    return tuple(
        f"{card.uuid} ({card.name}) has compute capability"
        f" {card.capability[:-1]}.{card.capability[-1]}, and llama.cpp's kernels need 6.1. Leave it"
        f" out: llama_server_gpus_except: [{card.uuid.removeprefix(UNTOLD).partition(AT)[0]}]"
        f"{f' of {card.host}' if card.host else ''}"
        for group in cards
        for card in group
        if card and is_too_old(card)
    )


def architectures(host: Mapping[str, Any], cards: Sequence[MaybeCards]) -> str:
    """What llama.cpp is compiled for: machine code for each generation in the rig, and no other."""
    bus = _bus(host)
    known = {
        card.capability if card else capability_of(bus.get(uuid, "").partition(" ")[0])
        for uuid, card in named(host["gpus"], cards)
    }
    return ";".join(f"{capability}-real" for capability in sorted(known - {""}, key=int))
