"""Reads a rig from words: ``P106-100 × 6, 4 GB RAM``."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import (
    GIGABIT,
    X1_LINK,
    Card,
    Helper,
    Rig,
    is_foreign,
    is_named_like_a_card,
    is_old,
    known_cards,
    make_card,
    nominal_ram,
    similar_cards,
)
from heartcode_models.units import MIB

EXAMPLE = "P106-100 x 6 + P104-100 x 2, 8 GB RAM, 2 cores, x1"
_MOST_CARDS = 64
_ASSUMED_RAM_GB, _ASSUMED_CORES = 4, 2
#: What a host may have; more is a typing error, as of a unit.
_MOST_RAM, _MOST_DISK, _MOST_CORES, _MOST_LANES = 1 << 42, 1e15, 1024, 16
_CORES = {"single": 1, "dual": 2, "quad": 4, "hexa": 6, "octa": 8}

_PREFIX = re.compile(r"\s*([\w.-]+)\s*:(.*)", re.DOTALL)
_PARTS = re.compile(r"[,;+&\n]|\b(?:and|with)\b", re.IGNORECASE)

_NUMBER = r"\d{1,9}(?:[.]\d{1,9})?"
_RAM = r"(?:(?:host|system|main)[\s-]*)?(?:ram|memory|(?:so-?)?dimms?|(?:so-?)?ddr\d?l?(?:-\d+)?)"
_DISK = (
    r"(?:(?:nvme|m[.]2|sata|usb|free)[\s-]*)*(?:ssd|hdd|nvme|disk|drive|stick)"
    r"(?:\s+(?:space|free))*"
)

_HOST_WORD = re.compile(rf"{_RAM}|{_DISK}", re.IGNORECASE)

#: Behind a card's name: what is on it.
_SIZE = re.compile(
    rf"(.+?)\s*[(]?({_NUMBER})\s*(?:gb|gib|g)(?:\s*(?:vram|gddr\dx?))?[)]?", re.IGNORECASE
)
#: The x of GTX is none of these.
_COUNTED = (
    re.compile(r"(?P<name>.+?)(?:\s+[x*]\s*|(?<=\d)x\s*|\s*×\s*)(?P<count>\d+)", re.IGNORECASE),
    re.compile(r"(?P<count>\d+)\s*[x×*]\s*(?P<name>.+)", re.IGNORECASE),
    re.compile(r"(?P<name>.+?)\s+(?P<count>\d+)\s*[x×*]", re.IGNORECASE),
    re.compile(r"(?P<count>\d{1,2})\s+(?P<name>[^\W\d].*)", re.IGNORECASE),
)
#: Without a capital B: of bytes a network has an eighth, and people mean either.
_NETWORK = re.compile(
    rf"(?P<amount>{_NUMBER})\s*"
    r"(?:(?P<measured>mib(?:/s)?)|(?P<unit>[gm])(?:bit|(?-i:b))?(?:/s|ps)?)",
    re.IGNORECASE,
)
#: Bytes/s that no network between rigs has: 400 Gbit/s.
_FASTEST = 400 * GIGABIT
_NOUN = re.compile(r"(?<=\S)\s+(?:cards?|gpus?|pcs|pieces)$", re.IGNORECASE)
_ONLY_A_SIZE = re.compile(rf"{_NUMBER}\s*[kmgt]i?b?", re.IGNORECASE)


def _amounts(what: str, units: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """``8 GB RAM`` and ``RAM: 8 GB``; modules may be counted, ``2 x 4 GB``."""
    count = r"(?:(?<![\w.-])(?P<times>\d{1,2})\s*[x×*]\s*|(?<![\w.-]))"
    size = rf"{count}(?P<amount>{_NUMBER})\s*(?P<unit>{units})"
    return (
        re.compile(rf"{size}\s*(?:of\s+)?\b{what}(?:\s+ram)?\b", re.IGNORECASE),
        re.compile(rf"\b{what}(?:\s+ram)?\s*[:=]?\s*{size}\b(?:\s+free\b)?", re.IGNORECASE),
    )


@dataclass(kw_only=True)
class _Host:
    """What the words say of the host; a fact that is not there was not said."""

    facts: dict[str, int] = field(default_factory=dict)

    def note(self, name: str, value: float, most: float, said: str) -> None:
        """Take a fact.

        Raises:
            ModelError: it is there already, or no host has so little or so much.
        """
        if name in self.facts:
            raise ModelError(f"{name} is given twice")
        if not 1 <= value <= most:
            raise ModelError(f"'{said.strip()}' cannot be its {name}")
        self.facts[name] = int(value)


def _take_ram(host: _Host, found: re.Match[str]) -> None:
    amount = float(found["amount"]) * int(found["times"] or 1)
    is_measured = found["unit"].upper().startswith("M")
    ram = int(amount * MIB) if is_measured else nominal_ram(amount)
    host.note("RAM", ram, _MOST_RAM, found[0])


def _take_disk(host: _Host, found: re.Match[str]) -> None:
    unit = 1e12 if found["unit"].upper().startswith("T") else 1e9
    size = float(found["amount"]) * int(found["times"] or 1) * unit
    host.note("disk", size, _MOST_DISK, found[0])


def _take_cores(host: _Host, found: re.Match[str]) -> None:
    said = found["count"].lower()
    host.note("cores", _CORES[said] if said in _CORES else int(said), _MOST_CORES, found[0])


def _take_link(host: _Host, found: re.Match[str]) -> None:
    host.note("PCIe width", int(found["width"] or 1), _MOST_LANES, found[0])


def _take_nothing(_: _Host, __: re.Match[str]) -> None:
    """What kind of CPU it is decides nothing; its cores do."""


_Taker = Callable[[_Host, re.Match[str]], None]
#: What is said of a host, wherever in a part it stands.
_FACTS: tuple[tuple[re.Pattern[str], _Taker], ...] = (
    *((form, _take_ram) for form in _amounts(_RAM, "gb|gib|g|mb|mib|m")),
    *((form, _take_disk) for form in _amounts(_DISK, "gb|gib|g|tb|tib|t")),
    (
        re.compile(
            r"\b(?P<count>\d{1,5}|single|dual|quad|hexa|octa)[\s-]*(?:cpu[\s-]*)?"
            r"(?:cores?|threads?|v?cpus?)\b",
            re.IGNORECASE,
        ),
        _take_cores,
    ),
    (
        re.compile(
            r"\b(?:intel\s+|amd\s+)?(?:celeron|pentium|xeon|athlon|ryzen|sempron|core\s+i\d|i[3579]-)"
            r"[\w\s.-]*$",
            re.IGNORECASE,
        ),
        _take_nothing,
    ),
    (
        re.compile(
            r"\bpci-?e(?:xpress)?\s*(?:\d(?:[.]\d)?\s*)?[x×](?P<width>16|1|2|4|8)\b(?:\s*risers?\b)?",
            re.IGNORECASE,
        ),
        _take_link,
    ),
    (
        re.compile(r"(?:(?<![\w.-])[x×](?P<width>16|1|2|4|8)\s*)?\brisers?\b", re.IGNORECASE),
        _take_link,
    ),
    (re.compile(r"^[x×](?P<width>16|1|2|4|8)$", re.IGNORECASE), _take_link),
)


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What a description says."""

    name: str
    host: _Host
    cards: tuple[Card, ...]


def parse_rig(text: str, name: str = "rig") -> Rig:
    """The rig that a description means.

    Cards first, kinds joined by ``+``; then, in any order, RAM, cores, PCIe width and disk.
    ``name:`` may stand before.

    Raises:
        ModelError: a part cannot be understood; the message has an example.
    """
    said = _understood(text, name)
    facts = said.host.facts
    cores = (
        () if "cores" in facts else (f"the CPU is not given: {_ASSUMED_CORES} cores are assumed",)
    )
    return Rig(
        name=said.name,
        cards=said.cards,
        ram=facts.get("RAM", nominal_ram(_ASSUMED_RAM_GB)),
        cores=facts.get("cores", _ASSUMED_CORES),
        disk=facts.get("disk"),
        assumed=(*_of_the_ram(said), *cores, *_of_the_cards(said)),
    )


def parse_helper(text: str, name: str) -> tuple[Helper, tuple[str, ...]]:
    """The helper that a description means, written as a rig's, and what is assumed of it.

    Raises:
        ModelError: a part cannot be understood; the message has an example.
    """
    said = _understood(text, name)
    helper = Helper(
        name=said.name,
        cards=tuple(replace(card, host=said.name) for card in said.cards),
        ram=said.host.facts.get("RAM", nominal_ram(_ASSUMED_RAM_GB)),
    )
    notes = (*_of_the_ram(said), *_of_the_cards(said))
    return helper, tuple(f"{said.name}: {note}" for note in notes)


def parse_network(text: str) -> int:
    """Bytes/s of a network in words: ``1Gbit``, ``2.5 Gbit/s``, or measured ``110 MiB/s``.

    Raises:
        ModelError: it is neither, or no network is so slow or fast.
    """
    found = _NETWORK.fullmatch(text.strip())
    if found:
        each = {"g": GIGABIT, "m": GIGABIT / 1000}
        per_unit = MIB if found["measured"] else each[found["unit"].lower()]
        speed = int(float(found["amount"]) * per_unit)
        if MIB <= speed <= _FASTEST:
            return speed
    raise ModelError(
        f"network '{text}' is not understood: give its speed, as in '1Gbit' or '2.5 Gbit/s', or"
        " what was measured, as in '110 MiB/s'"
    )


def _understood(text: str, name: str) -> _Said:
    prefix = _PREFIX.fullmatch(text)
    if prefix and not _HOST_WORD.fullmatch(prefix[1]):
        name, text = prefix[1], prefix[2]
    try:
        host, cards = _read(text)
    except ModelError as error:
        raise ModelError(
            f"'{text.strip()}' is not understood: {error}. For example: '{EXAMPLE}'"
        ) from None
    link = host.facts.get("PCIe width")
    return _Said(name=name, host=host, cards=tuple(_with_link(card, link) for card in cards))


def _read(text: str) -> tuple[_Host, list[Card]]:
    host = _Host()
    cards: list[Card] = []
    for part in filter(None, (part.strip() for part in _PARTS.split(text))):
        cards.extend(_cards(_without_facts(part, host)))
    if not cards:
        raise ModelError("it names no cards")
    if len(cards) > _MOST_CARDS:
        raise ModelError(f"it has {len(cards)} cards; give {_MOST_CARDS} at most")
    return host, cards


def _of_the_ram(said: _Said) -> Iterator[str]:
    if "RAM" not in said.host.facts:
        yield f"host RAM is not given: {_ASSUMED_RAM_GB} GB are assumed"


def _of_the_cards(said: _Said) -> Iterator[str]:
    for card in dict.fromkeys(said.cards):
        name = re.sub(r" \d+GB$", "", card.name)
        if not card.bandwidth and (similar := similar_cards(name)):
            yield f"{card.name} is no card that is known; is it {' or '.join(similar)}?"


def _without_facts(part: str, host: _Host) -> str:
    """Note what a part says of the host; gives what is left of it, which names cards."""
    for form, take in _FACTS:
        found = form.search(part)
        if not found:
            continue
        rest = f"{part[: found.start()]} {part[found.end() :]}".strip()
        if _ONLY_A_SIZE.fullmatch(rest) or _ends_in_two_sizes(part):
            raise ModelError(f"'{part}' has a size too many; put a comma between its parts")
        take(host, found)
        return _without_facts(rest, host) if rest else ""
    return part


def _ends_in_two_sizes(part: str) -> bool:
    """Whether RAM or disk stands between two sizes, so that each of them may be meant."""
    size = rf"{_NUMBER}\s*[mgt]i?b?"
    form = rf".*{size}\s*(?:{_RAM}|{_DISK})\s*{size}\s*"
    return re.fullmatch(form, part, re.IGNORECASE | re.DOTALL) is not None


def _cards(text: str) -> list[Card]:
    if not text:
        return []
    if _ONLY_A_SIZE.fullmatch(text):
        raise ModelError(f"'{text}' does not say of what: '{text} RAM', or '{text} disk'")
    name, count = _counted(_NOUN.sub("", text))
    if not 1 <= count <= _MOST_CARDS:
        raise ModelError(f"{count} cards of a kind; give 1 to {_MOST_CARDS}")
    return [_card(name)] * count


def _counted(kind: str) -> tuple[str, int]:
    for form in _COUNTED:
        if found := form.fullmatch(kind):
            return found["name"].strip(), int(found["count"])
    return kind, 1


def _card(text: str) -> Card:
    sized = _SIZE.fullmatch(text)
    name = sized[1] if sized else text
    if is_foreign(name):
        raise ModelError(f"'{name}' is no card of NVIDIA, and llama.cpp is built for those alone")
    if is_old(name):
        raise ModelError(f"'{name}' is too old: llama.cpp's kernels need compute capability 6.1")
    card = make_card(name, gigabytes=float(sized[2]) if sized else None)
    if card and card.vram > 0 and (card.bandwidth or is_named_like_a_card(name)):
        return card
    similar = similar_cards(name)
    hint = f" (is it {' or '.join(similar)}?)" if similar else ""
    raise ModelError(
        f"'{name}' is no card whose memory is known{hint}; known are {', '.join(known_cards())}."
        " Of another one write the memory behind the name, as in 'RTX 3060 12 GB', and of one"
        " without a name 'card 8 GB'"
    )


def _with_link(card: Card, width: int | None) -> Card:
    if width is None:
        return card
    link = width * X1_LINK
    return replace(card, link=min(link, card.link) if card.link else link)
