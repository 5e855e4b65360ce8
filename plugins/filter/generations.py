"""Filters for going back to what a rig served with before (docs/adr/0030).

generation | generation_backends           the numbers of its backends
generation | generation_surplus            those of backends that have come since
answers | generation_moved                 units to be stopped first: others get cards of theirs
generation | generation_services           proxy, exporter and what sets the cards, to take it in
answers | generation_stands_in(host)       the rigs that can take a rig's requests meanwhile

`generation` is what plugins/modules/host_generation.py has told of it. `answers` of
`generation_stands_in` are what each rig's proxy has said: a result of a loop over rigs, with
`health` and `models`; those of `generation_moved` are lines of backends' settings that name their
cards, as grep shows them, `now` and `before`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.planner.cards import uuids_of

Generation = Mapping[str, Any]
Units = list[dict[str, Any]]

_SETTINGS = re.compile(r"/etc/heartcode/llama/(\d+)\.env")
_PROGRAM = ("/etc/heartcode/heartcode.env", "/opt/heartcode/app/current")


def _numbers(paths: Iterable[str]) -> list[int]:
    return sorted(int(found[1]) for path in paths if (found := _SETTINGS.fullmatch(path)))


def backends(generation: Generation) -> list[int]:
    """Return the numbers of the backends that a rig had."""
    return _numbers(generation["files"])


def surplus(generation: Generation) -> list[int]:
    """Return the numbers of those that it did not have."""
    return sorted(set(_numbers(generation["paths"])).difference(backends(generation)))


_CARDS = re.compile(r".*/(\d+)\.env:HEARTCODE_GPU_UUID=(.*)")


def moved(answers: Mapping[str, Any]) -> Units:
    """Return the units of which another backend gets a card: its memory would be taken twice."""
    now, before = (
        {int(found[1]): uuids_of(found[2]) for line in lines if (found := _CARDS.fullmatch(line))}
        for lines in (answers[name]["stdout_lines"] for name in ("now", "before"))
    )
    numbers = {uuid: number for number, cards in before.items() for uuid in cards}
    return [
        {"name": f"heartcode-llama@{number}.service", "state": "stopped"}
        for number, cards in sorted(now.items())
        if any(numbers.get(uuid, number) != number for uuid in cards)
    ]


def services(generation: Generation) -> Units:
    """Return what was started with other files and has to take these in."""
    paths, files = set(generation["paths"]), set(generation["files"])
    units = "/etc/systemd/system"
    program = bool(paths.intersection(_PROGRAM))
    found: Units = []
    if any(path.startswith(f"{units}/heartcode.socket") for path in paths):
        found.append({"name": "heartcode.socket", "state": "restarted"})
    elif f"{units}/heartcode.service" in paths:
        found.append({"name": "heartcode.service", "state": "restarted"})
    elif program:
        found.append({"name": "heartcode.service", "state": "reloaded"})
    if program or f"{units}/heartcode-exporter.service" in paths:
        found.append({"name": "heartcode-exporter.service", "state": "restarted"})
    tune = f"{units}/heartcode-gpu-tune.service"
    if tune in files and paths.intersection({tune, "/etc/heartcode/gpu-tune.json"}):
        found.append({"name": "heartcode-gpu-tune.service", "state": "restarted"})
    return [unit for unit in found if f"{units}/{unit['name']}" in files]


def stands_in(answers: Sequence[Mapping[str, Any]], host: str) -> list[str]:
    """Return the other rigs that are ready and serve every model that `host` serves now."""
    models = {answer["item"]: _models(answer) for answer in answers}
    own = models.pop(host, set())
    return [
        answer["item"]
        for answer in answers
        if answer["item"] != host
        and answer.get("answers", {}).get("health", {}).get("rc") == 0
        and own <= models[answer["item"]]
    ]


def _models(answer: Mapping[str, Any]) -> set[str]:
    said = answer.get("answers", {}).get("models", {}).get("stdout", "")
    try:
        return {str(model["id"]) for model in json.loads(said)["data"]}
    except (KeyError, TypeError, ValueError):
        return set()


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "generation_backends": backends,
            "generation_surplus": surplus,
            "generation_moved": moved,
            "generation_services": services,
            "generation_stands_in": stands_in,
        }
