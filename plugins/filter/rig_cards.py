"""Filters for which cards a rig's backends get: those that are named, else all that are found.

host | rig_cards       its backends in the order of their numbers, whether their cards were found,
                       and what is wrong or worth saying
results | rig_shapes   by file what a rig has said of the models that lie there
mib | rig_ram(record)  the RAM to plan for

`host` is a mapping with

name        the rig's inventory name
listed      llama_server_gpus; empty where cards are to be found
left_out    llama_server_gpus_except
backend     llama_cpp_backend
looked      whether the rig was asked for cards at all (gpu_driver_mode is not none)
deployed    the UUIDs that the backend of each number has had so far, by number; cards that other
            hosts lend (`@` and the host behind them) are not looked for here
seen        what the driver shows, fields of nvidia-smi by their names: uuid, pci.bus_id and
            compute_cap
bus         PCI addresses of NVIDIA's display controllers, as the kernel writes them

A backend of several cards has all of their UUIDs as its `uuid`, with `+` between them, in the order
in which its llama-server sees them. Cards that are found come one for each backend: the planner
makes groups of them where a model wants that, and they keep the order that their groups had.

A card that is on the bus while no driver answers is known by its address alone: its backend's
`uuid` is then `PCI-` and the address, until the driver tells it.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.planner.cards import AND, UNTOLD, own_uuids, uuids_of

#: What an entry may name its card by, and what it may name several by.
_WAYS = ("uuid", "pci", "pci_order")
_GROUP = "gpus"
_UUID = re.compile(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", re.IGNORECASE)
#: On the cpu backend an entry only says that there is one; it may have any name.
_LABEL = re.compile(r"(?!GPU-)[A-Za-z0-9._-]+")
#: The only backend of a host without cards.
CPU = "cpu"
#: Of a rig's RAM: less than any module, more than a kernel takes for itself.
_SAME_RAM = 0.02


def address(text: Any) -> str | None:
    """A PCI address as the kernel writes it, `0000:03:00.0`; None if it is none.

    People leave the domain out, and nvidia-smi writes eight digits of it, in capitals.
    """
    found = _ADDRESS.fullmatch(str(text))
    if not found:
        return None
    domain, place = found.groups()
    return f"{int(domain or '0', 16):04x}:{place.lower()}"


@dataclass(frozen=True)
class _Found:
    """What a rig shows: each card's UUID by its address, in the addresses' order."""

    by_address: Mapping[str, str]
    deployed: Mapping[int, tuple[str, ...]]
    #: On the bus, and not shown by the driver.
    silent: Sequence[str]
    #: Compute capabilities by UUID, of cards that are shown.
    capabilities: Mapping[str, str]

    @property
    def uuids(self) -> list[str]:
        return list(self.by_address.values())

    @property
    def places(self) -> list[str]:
        """Addresses of all cards, in their order."""
        return sorted([*self.by_address, *self.silent])

    def at(self, place: str) -> str | None:
        """The card at an address; where no driver answers what it is called until one does."""
        if not self.by_address and place in self.silent:
            return UNTOLD + place
        return self.by_address.get(place)

    @property
    def former(self) -> list[str]:
        """Cards that have served, in the order of their backends.

        Once each: a run that has ended amid a change leaves a card's former backend beside its own.
        """
        return list(dict.fromkeys(uuid for cards in self.deployed.values() for uuid in cards))

    @property
    def lost(self) -> list[str]:
        """Cards that have served and are not shown any more."""
        return [uuid for uuid in self.former if uuid not in self.uuids]

    def fits_beside(self, lost: str, new: str) -> bool:
        """Whether a card can be in a lost one's place among the cards of its backend."""
        beside = next(cards for cards in self.deployed.values() if lost in cards)
        kinds = {self.capabilities[uuid] for uuid in beside if uuid in self.capabilities}
        return not kinds or self.capabilities.get(new) in kinds


def rig_cards(host: Mapping[str, Any]) -> dict[str, Any]:
    """Return `backends`, `found`, `faults` and `notes`; the last two are sentences.

    Each of `backends` is what is said of it in `llama_server_gpus`, with its `uuid`. `found` says
    that nobody has named their cards.
    """
    found = _look(host)
    listed = host["listed"] or []
    faults = [*_strange(listed, host), *_left_out_faults(host["left_out"])]
    if faults:
        return {
            "backends": [],
            "found": not listed,
            "faults": [f"{host['name']}: {fault}" for fault in faults],
            "notes": [],
        }
    backends, faults, notes = _named(listed, host, found) if listed else _unnamed(host, found)
    cards = Counter(uuid for one in backends for uuid in uuids_of(one["uuid"]))
    if twice := [uuid for uuid, times in cards.items() if times > 1]:
        faults.append(
            f"llama_server_gpus must list each of the rig's GPUs once ({', '.join(twice)} stands"
            f" there twice, {_places_in(twice[0], backends)}): a card serves one backend"
        )
    return {
        "backends": backends,
        "found": not listed,
        "faults": [f"{host['name']}: {fault}" for fault in faults],
        "notes": [f"{host['name']}: {note}" for note in notes],
    }


def _places_in(uuid: str, backends: Sequence[Mapping[str, Any]]) -> str:
    """Which entries name a card, in words."""
    entries = [str(n) for n, one in enumerate(backends, 1) if uuid in uuids_of(one["uuid"])]
    return f"in entries {' and '.join(entries)}" if len(entries) > 1 else f"in entry {entries[0]}"


def _look(host: Mapping[str, Any]) -> _Found:
    seen = {address(card["pci.bus_id"]) or card["uuid"]: card["uuid"] for card in host["seen"]}
    by_address = dict(sorted(seen.items()))
    bus = sorted(filter(None, map(address, host["bus"])))
    deployed = host["deployed"]
    return _Found(
        by_address=by_address,
        deployed={int(n): own_uuids(deployed[n]) for n in sorted(deployed, key=int)},
        silent=[place for place in bus if place not in by_address],
        capabilities={
            card["uuid"]: card["compute_cap"] for card in host["seen"] if card.get("compute_cap")
        },
    )


# --- cards that are named ----------------------------------------------------------------------


def _strange(listed: Sequence[Any], host: Mapping[str, Any]) -> list[str]:
    """What cannot be in llama_server_gpus, whatever the rig has."""
    faults = []
    for number, entry in enumerate(listed):
        which = f"entry {number + 1} of llama_server_gpus"
        if not isinstance(entry, Mapping):
            faults.append(f"{which} is {entry!r}; write each card as `- uuid: GPU-...`")
            continue
        ways = [way for way in (*_WAYS, _GROUP) if way in entry]
        if len(ways) != 1:
            faults.append(
                f"{which} names its card by {' and '.join(ways) or 'nothing'}; give one of uuid"
                " (nvidia-smi -L prints it), pci (an address as lspci prints it) and pci_order, or"
                " gpus (a list of these, for a model that no card holds)"
            )
        elif ways == [_GROUP]:
            faults += [f"{which}: {fault}" for fault in _strange_group(entry[_GROUP], host)]
        elif (fault := _strange_name(ways[0], entry[ways[0]], host["backend"])) is not None:
            faults.append(f"{which}: {fault}")
    return faults


def _strange_group(names: Any, host: Mapping[str, Any]) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        what = "each by its UUID, its PCI address in quotes or its place in their order, from 0"
        return [f"gpus is {names!r}; give a list of cards, {what}"]
    if strange := [name for name in names if not isinstance(name, str | int | float)]:
        return [f"gpus holds {strange[0]!r}; write each card by itself, as in [0, 1, '03:00.0']"]
    named = [(_way(name), name) for name in names]
    return [fault for way, name in named if (fault := _strange_name(way, name, host["backend"]))]


def _way(name: Any) -> str:
    """What a name in a list of cards is: a number is a place, a UUID or a label has no colon."""
    if isinstance(name, bool | float):
        return "pci"  # YAML's idea of an address without quotes
    if re.fullmatch(r"[0-9]+", str(name)):
        return "pci_order"
    return "pci" if ":" in str(name) else "uuid"


def _strange_name(way: str, name: Any, backend: str) -> str | None:
    if way == "uuid":
        if _UUID.fullmatch(str(name)) or (backend != "cuda" and _LABEL.fullmatch(str(name))):
            return None
        return (
            f"{name} is not the UUID of a GPU (GPU- and 32 hexadecimal digits in five groups)."
            " `nvidia-smi -L` on the rig prints them"
        )
    if way == "pci":
        return None if address(name) else _no_address(name)
    if isinstance(name, bool) or not re.fullmatch(r"[0-9]+", str(name)):
        return f"pci_order is '{name}'; cards are counted from 0 in the order of their addresses"
    return None


def _no_address(name: Any) -> str:
    why = (
        "; YAML has taken it for a number: put it into quotes"
        if isinstance(name, int | float)
        else ""
    )
    return f"'{name}' is no PCI address like 0000:03:00.0, as `lspci` on the rig prints it{why}"


def _named(
    listed: Sequence[Mapping[str, Any]], host: Mapping[str, Any], found: _Found
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    backends, faults = [], []
    for number, entry in enumerate(listed):
        names = _names(entry)
        former = found.deployed.get(number, ())
        # As many as before: each is in the place of one of them.
        places = former if len(former) == len(names) else (None,) * len(names)
        cards = [_uuid_of(*one, was, found) for one, was in zip(names, places, strict=True)]
        faults += [fault for _, fault in cards if fault]
        said = {k: v for k, v in entry.items() if k not in (*_WAYS, _GROUP)}
        backends.append({"uuid": AND.join(uuid for uuid, _ in cards), **said})
    cards_named = [uuid for one in backends for uuid in uuids_of(one["uuid"])]
    absent = _absent(cards_named, found)
    if absent:
        unnamed = sorted(set(found.uuids).difference(cards_named))
        faults.append(
            f"there is no card {', '.join(absent)}, which llama_server_gpus names. Not named there,"
            f" but in the rig: {', '.join(unnamed) or 'none'}. Correct the UUID, or take the entry"
            " out until the card is back"
        )
    notes = []
    if host["left_out"]:
        left_out = ", ".join(map(str, host["left_out"]))
        notes.append(
            f"llama_server_gpus_except ({left_out}) is for cards that are found, not for a list"
        )
    return backends, faults, notes


def _names(entry: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """How an entry names its cards, and what it says."""
    if _GROUP in entry:
        return [(_way(name), name) for name in entry[_GROUP]]
    return [(way, entry[way]) for way in _WAYS if way in entry]


def _uuid_of(way: str, name: Any, former: str | None, found: _Found) -> tuple[str, str | None]:
    """The UUID of the card that is named, and what keeps it from being found.

    `former` is the card that its backend has had in this place.
    """
    if way == "uuid":
        return str(name), None
    place = _place_of(way, name, found)
    # The others have moved up where one is missing: each backend keeps the card that it had, unless
    # a new one is in its place.
    if way == "pci_order" and found.lost and former:
        there = found.at(place)
        is_replaced = there and there not in found.former and former in found.lost
        return (there if there and is_replaced else former), None
    if uuid := found.at(place):
        return uuid, None
    # A card that has gone since: its backend waits for it (docs/adr/0015).
    if former and former not in found.uuids:
        return former, None
    there = ", ".join(found.places) or "none"
    return f"{UNTOLD}{place}", (
        f"no card of NVIDIA that the driver shows is at {place}, which llama_server_gpus names;"
        f" there are {there}"
    )


def _place_of(way: str, name: Any, found: _Found) -> str:
    """The address that is meant, or words for it where it counts further than there are."""
    if way == "pci":
        return str(address(name))
    order = int(name)
    if order < len(found.places):
        return found.places[order]
    return f"number {order} in the order of their addresses"


def _absent(uuids: Iterable[str], found: _Found) -> list[str]:
    """Cards that are named, have never served here and are not there, where that can be told."""
    if not found.by_address:
        return []
    known = {*found.uuids, *found.former}
    return [uuid for uuid in uuids if uuid.startswith("GPU-") and uuid not in known]


# --- cards that are found ----------------------------------------------------------------------


def _left_out_faults(left_out: Iterable[Any]) -> list[str]:
    return [
        f"llama_server_gpus_except: {_no_address(one)}, nor is it a UUID"
        for one in left_out
        if not (_UUID.fullmatch(str(one)) or address(one))
    ]


def _unnamed(
    host: Mapping[str, Any], found: _Found
) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    left_out = {str(one) for one in host["left_out"]}
    places = {place for one in left_out if (place := address(one))}

    def wanted(place: str, uuid: str = "") -> bool:
        return place not in places and uuid not in left_out

    if not host["looked"]:
        return [{"uuid": CPU}], [], []
    shown = [uuid for place, uuid in found.by_address.items() if wanted(place, uuid)]
    silent = [place for place in found.silent if wanted(place)]
    # A left-out card that has dropped out is known by its UUID alone.
    gone = {uuid for place, uuid in found.by_address.items() if not wanted(place, uuid)} | left_out
    former = [uuid for uuid in found.former if uuid not in gone]
    former = [uuid for uuid in former if uuid.startswith("GPU-")]
    if not found.by_address:
        # Without an answer of the driver: as it was, or, on a rig that is new, as the bus shows it.
        uuids = former or [UNTOLD + place for place in silent]
        return [{"uuid": uuid} for uuid in uuids], _no_card(uuids, found), []
    new = [uuid for uuid in shown if uuid not in former]
    lost = [uuid for uuid in former if uuid not in shown]
    places_for = _replaced(lost, new, found)
    numbered = [places_for.get(uuid, uuid) for uuid in former]
    numbered += [uuid for uuid in new if uuid not in places_for.values()]
    faults = _no_card(numbered, found)
    # A card that has dropped out may still be on the bus.
    if len(silent) > len(lost):
        faults.append(
            f"the driver does not list the card of NVIDIA at {', '.join(silent)}. Check its riser"
            " and power and boot the rig anew (`journalctl -k | grep NVRM` has the driver's"
            " reason), or do without it: llama_server_gpus_except:"
            f" [{', '.join(repr(place) for place in silent)}]"
        )
    notes = [f"{new_one} takes the place of {old}" for old, new_one in places_for.items()]
    return [{"uuid": uuid} for uuid in numbered], faults, notes


def _replaced(lost: Sequence[str], new: Sequence[str], found: _Found) -> dict[str, str]:
    """Which card takes the place of which that is gone: the first that can be where it was."""
    waiting = list(new)
    places_for: dict[str, str] = {}
    for uuid in lost:
        fitting = next((one for one in waiting if found.fits_beside(uuid, one)), None)
        if fitting is not None:
            waiting.remove(fitting)
            places_for[uuid] = fitting
    return places_for


def _no_card(uuids: Sequence[str], found: _Found) -> list[str]:
    if uuids:
        return []
    if found.by_address or found.silent:
        return ["llama_server_gpus_except leaves no card for a backend"]
    why = (
        'there is no card of NVIDIA on the PCI bus. Check risers and power, and "Above 4G decoding"'
        " in the firmware's setup; for a host that shall compute on its CPU set"
        " llama_cpp_backend: cpu"
    )
    return [why]


def rig_shapes(results: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return by file its shape as `heartcode-model shape` tells it, or a text: why it cannot.

    `results` are those of a loop over files (`item`).
    """
    return {
        one["item"]: json.loads(one["stdout"])
        if one["rc"] == 0
        else " ".join(f"{one['stdout']} {one['stderr']}".split()) or "it cannot be read"
        for one in results
    }


def rig_ram(counted: int, record: Mapping[str, Any]) -> int:
    """Return the MiB of RAM to plan for: those that were planned for as long as they are there.

    Another kernel counts a few MiB more or less of the same modules (MemTotal is what it has not
    taken for itself), and no backend shall be started anew for that. `record` is what the last
    deployment has written down, empty where there was none.
    """
    planned = int(record.get("rig", {}).get("ram_mib", 0))
    return planned if abs(planned - counted) <= counted * _SAME_RAM else counted


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"rig_cards": rig_cards, "rig_shapes": rig_shapes, "rig_ram": rig_ram}
