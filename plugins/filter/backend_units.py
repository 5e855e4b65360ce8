"""Filters for what each backend of a rig has on its host: units, files, signs and a port.

cards | backend_units(places, changed)    the units, with the files that they are started anew for
numbers | units_kept(places, tree)        the same for what of their files is kept in a tree
cards | backend_wanted(places)            what each backend shall have, as files for host_files
numbers | backend_ports(base_port)        the port of each, for taken_ports
deployed | backends_moved(cards)          units to be stopped first: another one gets their card
numbers | surplus_units                   units of backends that are no more
numbers | surplus_files(places)           files and signs of theirs, for host_files
cards | cards_below(names, lowest)        which of a card's numbers are too low, in words
names | copied_from(source, directory)    files that are installed as they are, for host_files

`cards` is rig_backends: a mapping for each backend, in their order. `places` are
the directories `env`, `wanted`, `units` and `run`.
"""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.planner.cards import uuids_of

Card = Mapping[str, Any]
Cards = Sequence[Card]
Places = Mapping[str, str]
Files = list[dict[str, Any]]

# What a backend's number stands for in the names of its files.
_SETTINGS = ("{env}/{n}.env", "{wanted}/{n}.env", "{wanted}/{n}.limits.conf")
_LIMITS = "{units}/heartcode-llama@{n}.service.d"
# Left by a run that has ended amid a restart, see plugins/modules/host_units.py.
_BEGUN = "{wanted}/{n}.env.begun"
_SIGNS = ("quarantined", "waiting", "turn", "stopped", "kv", "unsaved")


def _unit(number: object) -> str:
    return f"heartcode-llama@{number}.service"


def units(cards: Cards, places: Places, changed: Container[str] = ()) -> list[dict[str, Any]]:
    """Return each backend's unit, for host_units.

    One that runs is started anew where a file that is wanted differs from that in its place; its
    limits alone are no reason.

    Args:
        cards: rig_backends.
        places: The directories.
        changed: Wanted files that would be changed, in a dry run, which leaves them as they are.
    """
    found = []
    for number in range(len(cards)):
        _, wanted, limits = (path.format(n=number, **places) for path in _SETTINGS)
        unit = _started(number, places, settings=wanted, limits=limits)
        found.append({**unit, "state": "restarted"} if wanted in changed else unit)
    return found


def units_kept(numbers: Iterable[int], places: Places, tree: str) -> list[dict[str, Any]]:
    """Return the units of these backends, whose files lie below `tree` as on the host."""
    return [
        _started(
            number,
            places,
            settings=tree + _SETTINGS[0].format(n=number, **places),
            limits=f"{tree}{_LIMITS.format(n=number, **places)}/limits.conf",
        )
        for number in numbers
    ]


def _started(number: int, places: Places, *, settings: str, limits: str) -> dict[str, Any]:
    """Return a backend's unit that gets these files; its limits alone are no reason to start it."""
    return {
        "name": _unit(number),
        "enabled": True,
        "state": "started",
        "files": [
            {"path": _SETTINGS[0].format(n=number, **places), "source": settings},
            {
                "path": f"{_LIMITS.format(n=number, **places)}/limits.conf",
                "source": limits,
                "restarts": False,
            },
        ],
        "excused_by": f"{places['run']}/{number}.quarantined",
    }


def wanted(cards: Cards, places: Places) -> Files:
    """Return the directories and, for each card, what is rendered for it."""
    found: Files = [{"path": places[name], "state": "directory"} for name in ("env", "wanted")]
    for number, card in enumerate(cards):
        _, settings, limits = (path.format(n=number, **places) for path in _SETTINGS)
        variables = {"index": number, "item": card}
        found += [
            {"path": settings, "template": "backend.env.j2", "vars": variables},
            {"path": limits, "template": "limits.conf.j2", "vars": variables},
            {"path": _LIMITS.format(n=number, **places), "state": "directory"},
        ]
    return found


def ports(numbers: Iterable[int], base_port: int) -> list[dict[str, Any]]:
    """Return each backend's port, the variable that sets it, and the unit that may have it."""
    return [
        {
            "port": int(base_port) + number,
            "variable": "llama_server_base_port",
            "unit": _unit(number),
        }
        for number in numbers
    ]


def moved(deployed: Mapping[str, str], cards: Cards) -> list[dict[str, str]]:
    """Return the units of which a card gets another number.

    `deployed` are the UUIDs of the cards by the number of the backend that has them now.
    """
    numbers = {uuid: number for number, card in enumerate(cards) for uuid in uuids_of(card["uuid"])}
    return [
        {"name": _unit(number), "state": "stopped"}
        for number, backend in deployed.items()
        if any(numbers.get(uuid, int(number)) != int(number) for uuid in uuids_of(backend))
    ]


def surplus_units(numbers: Iterable[object]) -> list[dict[str, Any]]:
    """Return the units of these backends, and those that look after them."""
    found: list[dict[str, Any]] = []
    for number in numbers:
        found += [
            {"name": _unit(number), "enabled": False, "state": "stopped"},
            {"name": f"heartcode-revive@{number}.path", "state": "stopped"},
            {"name": f"heartcode-card@{number}.timer", "state": "stopped"},
        ]
    return found


def surplus_files(numbers: Iterable[str], places: Places) -> Files:
    """Return all that these backends have left."""
    paths = (*_SETTINGS, _BEGUN, _LIMITS, *(f"{{run}}/{{n}}.{sign}" for sign in _SIGNS))
    return [
        {"path": path.format(n=number, **places), "state": "absent"}
        for number in numbers
        for path in paths
    ]


def below(cards: Cards, names: Sequence[str], lowest: int) -> list[str]:
    """Return "NAME of UUID" for each of a card's own numbers that is too low."""
    return [
        f"{name} of {card['uuid']}"
        for card in cards
        for name in names
        if int(card.get(name, lowest)) < lowest
    ]


def copied_from(names: Iterable[str], source: str, directory: str, mode: str = "0644") -> Files:
    """Return each file in `directory`, with the one of that name in `source` as its text."""
    return [
        {"path": f"{directory}/{name}", "src": f"{source}/{name}", "mode": mode} for name in names
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "backend_units": units,
            "units_kept": units_kept,
            "backend_wanted": wanted,
            "backend_ports": ports,
            "backends_moved": moved,
            "surplus_units": surplus_units,
            "surplus_files": surplus_files,
            "cards_below": below,
            "copied_from": copied_from,
        }
