"""Filter for `gateway_upstreams`: the fleet's models, each with the rigs that serve it.

gateway_upstreams | gateway_models      a list of id, aliases, group, rigs (address: weight)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any


def models(upstreams: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Turn what each rig serves into what each model is served by, in the order of the inventory.

    A rig's weight for a model is in slots of a usual card: each of its slots counts as much as its
    card is faster (tokens per second, as playbooks/tune.yml has measured them) than the mean of the
    cards that serve the model, 1 where nothing was measured, times the rig's own `speed`.
    """
    found: dict[str, dict[str, Any]] = {}
    for rig in upstreams:
        for served in rig["models"]:
            name, *aliases = served["names"]
            model = found.setdefault(
                name,
                {
                    "id": name,
                    "aliases": aliases,
                    "group": f"heartcode_model_{len(found)}",
                    "rigs": {},
                },
            )
            usual = _usual_speed(upstreams, name)
            faster = _speed(served) / usual if _speed(served) else 1.0
            weight = int(served.get("slots", 1)) * faster * float(rig.get("speed", 1))
            model["rigs"][rig["address"]] = model["rigs"].get(rig["address"], 0) + weight
    return list(found.values())


def _usual_speed(upstreams: Sequence[Mapping[str, Any]], name: str) -> float:
    """Mean of the measured speeds of the cards that serve a model, 0 where there are none."""
    speeds = [
        _speed(served)
        for rig in upstreams
        for served in rig["models"]
        if served["names"][0] == name and _speed(served)
    ]
    return fmean(speeds) if speeds else 0.0


def _speed(served: Mapping[str, Any]) -> float:
    return float(served.get("tokens_per_second", 0))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"gateway_models": models}
