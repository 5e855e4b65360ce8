"""Persistence mode and power limit of one card, through NVML.

Mining cards answer "not supported" for one thing or another: each of the two stands for itself. A
card that is lost cannot be tuned at all (`UnreachableError`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pynvml

STOCK = "stock"
_ON_OFF = ("off", "on")


class UnreachableError(Exception):
    """Nothing can be set on this card; the text says why."""


@dataclass(frozen=True, kw_only=True)
class CardModes:
    """What a card shall be set to.

    Attributes:
        persistence: whether the driver keeps the card set up while nobody uses it.
        power_limit_w: watts, `STOCK` for the card's own default, None for its model's.
        model_limits_w: watts, or `STOCK`, by `model_key`.
    """

    persistence: bool = True
    power_limit_w: float | str | None = None
    model_limits_w: Mapping[str, float | str] = field(default_factory=dict)

    def limit_for(self, name: str) -> float | str | None:
        """Return the limit for a card that NVML calls `name`; None: leave it as it is."""
        if self.power_limit_w is not None:
            return self.power_limit_w
        return self.model_limits_w.get(model_key(name))


def model_key(name: str) -> str:
    """Return a model's name without what drivers differ in: "NVIDIA P106-100" is "P106100"."""
    return re.sub(r"NVIDIA|GEFORCE|[^A-Z0-9]", "", name.upper())


def tune_card(uuid: str, modes: CardModes) -> Iterator[str]:
    """Set what differs and yield a sentence for each change, and for what could not be done.

    Raises:
        UnreachableError: there is no driver, no such card, or it has fallen off the bus.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise UnreachableError(f"NVML cannot be used: {error}") from None
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        name = str(pynvml.nvmlDeviceGetName(handle))
    except pynvml.NVMLError as error:
        raise UnreachableError(str(error)) from None
    yield from _apart("persistence mode", _set_persistence(handle, wanted=modes.persistence))
    limit = modes.limit_for(name)
    if limit is not None:
        yield from _apart("power limit", _set_power_limit(handle, limit))


def _apart(what: str, steps: Iterator[str]) -> Iterator[str]:
    """Yield the sentences of one field; its error ends nothing but the field."""
    try:
        for step in steps:
            yield f"{what}: {step}"
    except (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_Uninitialized) as error:
        raise UnreachableError(str(error)) from None
    except pynvml.NVMLError as error:
        yield f"{what}: {error}; left as it is"


def _set_persistence(handle: Any, *, wanted: bool) -> Iterator[str]:
    now = bool(pynvml.nvmlDeviceGetPersistenceMode(handle))
    if now != wanted:
        pynvml.nvmlDeviceSetPersistenceMode(handle, int(wanted))
        yield f"{_ON_OFF[now]} -> {_ON_OFF[wanted]}"


def _set_power_limit(handle: Any, limit: float | str) -> Iterator[str]:
    now = pynvml.nvmlDeviceGetPowerManagementLimit(handle)
    if isinstance(limit, str):
        wanted = pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle)
    else:
        wanted = round(limit * 1000)
    try:
        least, most = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
    except pynvml.NVMLError_NotSupported:
        pass  # the card itself refuses what it cannot take
    else:
        clamped = min(max(wanted, least), most)
        if clamped != wanted:
            yield (
                f"{_watts(wanted)} is outside of what this card takes, {_watts(least)} to"
                f" {_watts(most)}; {_watts(clamped)} it is"
            )
            wanted = clamped
    if now != wanted:
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, wanted)
        yield f"{_watts(now)} -> {_watts(wanted)}"


def _watts(milliwatts: int) -> str:
    return f"{milliwatts / 1000:g} W"
