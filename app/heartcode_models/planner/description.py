"""Reads a rig from words: ``P106-100 × 6, 4 GB RAM``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import X1_LINK, Card, Rig, known_cards, make_card, nominal_ram
from heartcode_models.units import MIB

EXAMPLE = "P106-100 x 6 + P104-100 x 2, 8 GB RAM, 2 cores, x1"
_MOST_CARDS = 64
_ASSUMED_RAM_GB, _ASSUMED_CORES = 4, 2

_RAM = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GIB|MB|MIB)\s+(?:OF\s+)?(?:HOST\s+)?RAM")
_CORES = re.compile(r"(?:.*\s)?(\d+)[\s-]*(?:CORES?|THREADS?)")
_LINK = re.compile(r"(?:PCIE\s*)?[X×](1|2|4|8|16)(?:\s+RISERS?)?")
_DISK = re.compile(r"(\d+(?:\.\d+)?)\s*GB\s+(?:FREE\s+)?DISK")
_SIZE = re.compile(r"(.+?)\s*\(?(\d+(?:\.\d+)?)\s*GB\)?")
#: The x of GTX is none of these.
_COUNT_AFTER = re.compile(r"(.+?)(?:\s+[x*]\s*|(?<=\d)x\s*|\s*×\s*)(\d+)", re.IGNORECASE)
_COUNT_BEFORE = re.compile(r"(\d+)\s*[x×*]\s*(.+)", re.IGNORECASE)


@dataclass(kw_only=True)
class _Parts:
    cards: list[Card]
    ram: int | None = None
    cores: int | None = None
    link: int | None = None
    disk: int | None = None


def parse_rig(text: str, name: str = "rig") -> Rig:
    """The rig that a description means.

    Cards first, kinds joined by ``+``; then, in any order, RAM, cores, PCIe width and disk.
    ``name:`` may stand before.

    Raises:
        ModelError: a part cannot be understood; the message has an example.
    """
    prefix, colon, rest = text.partition(":")
    if colon:
        name, text = prefix.strip(), rest
    parts = _Parts(cards=[])
    for part in filter(None, (part.strip() for part in text.split(","))):
        if not _take(part, parts):
            parts.cards.extend(_cards(part))
    if not parts.cards:
        raise _not_understood(text, "it names no cards")
    cards = tuple(_with_link(card, parts.link) for card in parts.cards)
    if len(cards) > _MOST_CARDS:
        raise _not_understood(text, f"it has {len(cards)} cards")
    assumed = _assumptions(parts)
    return Rig(
        name=name,
        cards=cards,
        ram=nominal_ram(_ASSUMED_RAM_GB) if parts.ram is None else parts.ram,
        cores=parts.cores or _ASSUMED_CORES,
        disk=parts.disk,
        assumed=tuple(assumed),
    )


def _assumptions(parts: _Parts) -> list[str]:
    assumed = []
    if parts.ram is None:
        assumed.append(f"host RAM is not given: {_ASSUMED_RAM_GB} GB are assumed")
    if parts.cores is None:
        assumed.append(f"the CPU is not given: {_ASSUMED_CORES} cores are assumed")
    return assumed


def _take(part: str, parts: _Parts) -> bool:
    """Note what a part says of the host; False where it says nothing of that."""
    text = part.upper()
    if found := _RAM.fullmatch(text):
        amount = float(found[1])
        parts.ram = int(amount * MIB) if found[2].startswith("M") else nominal_ram(amount)
    elif found := _CORES.fullmatch(text):
        parts.cores = max(1, int(found[1]))
    elif found := _LINK.fullmatch(text):
        parts.link = int(found[1]) * X1_LINK
    elif found := _DISK.fullmatch(text):
        parts.disk = int(float(found[1]) * 1e9)
    return found is not None


def _cards(text: str) -> Sequence[Card]:
    cards: list[Card] = []
    for kind in text.split("+"):
        name, count = _counted(kind.strip())
        size = _SIZE.fullmatch(name.upper())
        gigabytes = float(size[2]) if size else None
        card = make_card(size[1] if size else name, gigabytes=gigabytes) if name else None
        if card is None:
            raise _not_understood(
                text,
                f"'{name}' is no card whose memory is known; write it behind the name"
                f" ('{name or 'P104-100'} 8 GB'), or use one of {', '.join(known_cards())}",
            )
        if not 1 <= count <= _MOST_CARDS:
            raise _not_understood(text, f"'{count}' cards of a kind")
        cards.extend([card] * count)
    return cards


def _counted(kind: str) -> tuple[str, int]:
    if found := _COUNT_AFTER.fullmatch(kind):
        return found[1], int(found[2])
    if found := _COUNT_BEFORE.fullmatch(kind):
        return found[2], int(found[1])
    return kind, 1


def _with_link(card: Card, link: int | None) -> Card:
    if link is None:
        return card
    return replace(card, link=min(link, card.link) if card.link else link)


def _not_understood(text: str, why: str) -> ModelError:
    return ModelError(f"'{text.strip()}' is not understood: {why}. For example: '{EXAMPLE}'")
