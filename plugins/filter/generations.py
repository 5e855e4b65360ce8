"""Filters for going back to what a rig served with before (docs/adr/0030).

generation | generation_surplus            units of backends that it does not have, to be stopped
generation | generation_backends(places)   units of its backends, and the files they start for
generation | generation_services           proxy, exporter and what sets the cards, to take it in
answers | generation_stands_in(host)       the rigs that can take a rig's requests meanwhile

`generation` is what plugins/modules/host_generation.py has told of it, `answers` what each rig's
proxy has: a result of a loop over rigs, with `health` and `models`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Generation = Mapping[str, Any]
Units = list[dict[str, Any]]

_SETTINGS = re.compile(r"/etc/heartcode/llama/(\d+)\.env")
_PROGRAM = ("/etc/heartcode/heartcode.env", "/opt/heartcode/app/current")


def _numbers(paths: Iterable[str]) -> list[int]:
    return sorted(int(found[1]) for path in paths if (found := _SETTINGS.fullmatch(path)))


def surplus(generation: Generation) -> Units:
    """Return the units of backends that have come since, and of what looks after them."""
    has = set(_numbers(generation["files"]))
    return [
        unit
        for number in _numbers(generation["paths"])
        if number not in has
        for unit in (
            {"name": f"heartcode-llama@{number}.service", "enabled": False, "state": "stopped"},
            {"name": f"heartcode-revive@{number}.path", "state": "stopped"},
            {"name": f"heartcode-card@{number}.timer", "state": "stopped"},
        )
    ]


def backends(generation: Generation, places: Mapping[str, str]) -> Units:
    """Return each backend's unit, for host_units; only what differs is started anew."""
    found: Units = []
    for number in _numbers(generation["files"]):
        settings = f"{places['env']}/{number}.env"
        limits = f"{places['units']}/heartcode-llama@{number}.service.d/limits.conf"
        files: list[dict[str, Any]] = [
            {"path": settings, "source": generation["tree"] + settings},
            {"path": limits, "source": generation["tree"] + limits, "restarts": False},
        ]
        found.append(
            {
                "name": f"heartcode-llama@{number}.service",
                "enabled": True,
                "state": "started",
                "files": files,
                "excused_by": f"{places['run']}/{number}.quarantined",
            }
        )
    return found


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
            "generation_surplus": surplus,
            "generation_backends": backends,
            "generation_services": services,
            "generation_stands_in": stands_in,
        }
