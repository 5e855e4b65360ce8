"""Filters for what a rig's driver says of its cards, beside what the inventory says of them.

lines | nvidia_smi_cards(fields)                  a mapping for each card of nvidia-smi's answer
backends | backend_cards                          the UUIDs of all their cards in this rig
cards | expected_capabilities(own, of_the_rig)    what compute capabilities each card may have
expected | unexpected_cards(seen)                 a sentence for each card that has another one
cards | strange_power_limits(of_the_host, of_models)
                                                  `NAME is 'VALUE'` for each limit that is no watts
cards | card_modes(of_the_host)                   by UUID what heartcode.gpu.power is told of it
cards | refused_power_limits(of_the_host, of_models, seen)
                                                  a sentence for each limit out of a card's range

`cards` and `backends` are rig_backends: a mapping for each backend, with its card or cards as its
uuid; what is said of a group is said of each of its cards. A power limit is in watts, or `stock`
for the card's own default, or "" where nothing is said.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.planner.cards import own_uuids

Card = Mapping[str, Any]
Seen = Sequence[Mapping[str, str]]

#: What nvidia-smi writes before the model's name since driver 460.
_MAKER = "NVIDIA "
#: No card takes more watts.
MOST_W = 1000


def nvidia_smi_cards(lines: Iterable[str], fields: Sequence[str]) -> list[dict[str, str]]:
    """Return the fields of each line that is a card's; nvidia-smi complains in others.

    `fields` name those that were queried, in their order; the first is `uuid`.
    """
    cards = (line.split(", ") for line in lines if line.startswith("GPU-"))
    return [
        dict(zip(fields, values, strict=True)) for values in cards if len(values) == len(fields)
    ]


def backend_cards(backends: Iterable[Card]) -> list[str]:
    """Return the UUIDs of all cards of the rig's own, in the order of their backends."""
    return [card["uuid"] for card in _each(backends)]


def _each(backends: Iterable[Card]) -> list[Card]:
    """What is said of each card of the rig's own, with its UUID: others are not its to set."""
    return [{**one, "uuid": uuid} for one in backends for uuid in own_uuids(one["uuid"])]


def expected_capabilities(
    cards: Iterable[Card], own: Mapping[str, Any], of_the_rig: Iterable[Any]
) -> dict[str, list[str]]:
    """Return by UUID the compute capabilities, without the dot, that a card may have.

    `own` names the one that a certain card must have, by UUID.
    """
    common = [str(one) for one in of_the_rig]
    return {uuid: [str(own[uuid])] if own.get(uuid) else common for uuid in backend_cards(cards)}


def unexpected_cards(expected: Mapping[str, Sequence[str]], seen: Seen) -> list[str]:
    """Return a sentence for each card that is there and has a compute capability of its own.

    `seen` are cards with uuid, capability (`6.1`) and name.
    """
    return [
        f"{card['uuid']} ({card['name']}) has compute capability {card['capability']},"
        f" expected {' or '.join(expected[card['uuid']])}"
        for card in seen
        if card["uuid"] in expected
        and card["capability"].replace(".", "") not in expected[card["uuid"]]
    ]


def strange_power_limits(
    cards: Iterable[Card], of_the_host: Any, of_models: Mapping[str, Any]
) -> list[str]:
    """Return `NAME is 'VALUE'` for each limit that is neither watts nor `stock` nor ""."""
    limits = [
        ("gpu_tune_power_limit_w", of_the_host),
        *of_models.items(),
        *((card["uuid"], card["power_limit_w"]) for card in cards if "power_limit_w" in card),
    ]
    return [f"{name} is '{limit}'" for name, limit in limits if not _is_limit(limit)]


def _is_limit(limit: Any) -> bool:
    if limit in ("", "stock"):
        return True
    # As text: true is no number of watts, and 1e3 nobody writes.
    is_number = re.fullmatch(r"\d+([.]\d+)?", str(limit), re.ASCII)
    return is_number is not None and 0 < float(limit) <= MOST_W


def card_modes(cards: Iterable[Card], of_the_host: Any) -> dict[str, dict[str, Any]]:
    """Return by UUID an object with the `power_limit_w` that a card itself or its host says.

    Without one its model's counts, which the program knows when it has asked the card.
    """
    limits = {card["uuid"]: card.get("power_limit_w", of_the_host) for card in _each(cards)}
    return {
        uuid: {} if limit == "" else {"power_limit_w": _watts(limit)}
        for uuid, limit in limits.items()
    }


def _watts(limit: Any) -> Any:
    return limit if limit == "stock" else float(limit)


def refused_power_limits(
    cards: Iterable[Card], of_the_host: Any, of_models: Mapping[str, Any], seen: Seen
) -> list[str]:
    """Return a sentence for each power limit that is out of its card's range.

    `of_models` are those that a person has set, by model. `seen` are cards with uuid, least_w,
    most_w and name; one that is not there, or does not tell its range ([N/A]), is passed over.
    """
    by_uuid = {card["uuid"]: card for card in seen}
    said = []
    for card in _each(cards):
        there = by_uuid.get(card["uuid"], {})
        try:
            least, most = float(there["least_w"]), float(there["most_w"])
        except (KeyError, ValueError):
            continue
        limit, variable = _limit(card, of_the_host, of_models, there["name"].removeprefix(_MAKER))
        if limit not in ("", "stock") and not least <= float(limit) <= most:
            said.append(
                f"a power limit of {limit} W is out of range for {card['uuid']}, which takes"
                f" {there['least_w']} to {there['most_w']} W. Change {variable}."
            )
    return said


def _limit(
    card: Card, of_the_host: Any, of_models: Mapping[str, Any], model: str
) -> tuple[Any, str]:
    """Return a card's limit and what sets it: the card's entry, else the host, else the model."""
    if card.get("power_limit_w", "") != "":
        return card["power_limit_w"], "power_limit_w beside its UUID in llama_server_gpus"
    if of_the_host != "" and "power_limit_w" not in card:
        return of_the_host, "gpu_tune_power_limit_w"
    return of_models.get(model, ""), "gpu_tune_model_power_limits_w"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "nvidia_smi_cards": nvidia_smi_cards,
            "backend_cards": backend_cards,
            "expected_capabilities": expected_capabilities,
            "unexpected_cards": unexpected_cards,
            "strange_power_limits": strange_power_limits,
            "card_modes": card_modes,
            "refused_power_limits": refused_power_limits,
        }
