"""Filters for what the proxy is told of its backends.

cards | proxy_backends(base_port, tuned)   url, slots, uuid and speeds of each
names | proxy_models                              one model's name where all have the same
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def backends(
    cards: Sequence[Mapping[str, Any]],
    base_port: int,
    tuned: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return `url`, `slots`, `uuid`, `prompt_speed` and `decode_speed` of each backend, in order.

    Speeds are tokens per second, 0 where nothing was measured.

    Args:
        cards: rig_backends.
        base_port: The first backend's port.
        tuned: What playbooks/tune.yml has measured, by UUID.
    """
    found = []
    for number, card in enumerate(cards):
        speeds = tuned.get(card["uuid"], {}).get("speeds", {})
        found.append(
            {
                "url": f"http://127.0.0.1:{int(base_port) + number}",
                "slots": card["slots"],
                "uuid": card["uuid"],
                "prompt_speed": speeds.get("prompt", 0),
                "decode_speed": speeds.get("decode", 0),
            }
        )
    return found


def models(names: Sequence[str]) -> list[str]:
    """Return the name of each backend's model, or the one name that all of them have."""
    return list(names) if len(set(names)) > 1 else list(names[:1])


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"proxy_backends": backends, "proxy_models": models}
