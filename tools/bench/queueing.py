"""Whether a request had to wait on one rig while another one had a free slot.

A rig's proxy logs how long a request waited in its queue; from when to when it had a slot follows
from the client's clock. Both differ from the rig's own by the way there, so a slot counts as free
or taken only where that was so `_MARGIN_S` before and after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tools.bench.conversations import Turn

_MARGIN_S = 0.05
# Below this it is the time to write it down.
_WAITED_S = 0.01


@dataclass(frozen=True, kw_only=True)
class Stay:
    """A request at the rig that answered it: when it came, got a slot and gave it back."""

    rig: str
    arrived: float
    began: float
    ended: float

    @property
    def waited(self) -> bool:
        """Whether it was queued at all."""
        return self.began - self.arrived >= _WAITED_S


@dataclass(frozen=True, kw_only=True)
class Queueing:
    """Counts of requests.

    Attributes:
        queued: those that waited.
        despite_free: of these, those whose rig was full while another had a free slot.
        by_choice: those whose own rig may have had a free slot, and let them wait for a better one.
    """

    queued: int
    despite_free: int
    by_choice: int

    @classmethod
    def of(cls, stays: Sequence[Stay], slots: Mapping[str, int]) -> Queueing:
        """Count; `slots` are those of each rig."""
        waiting = [stay for stay in stays if stay.waited]
        despite = by_choice = 0
        for stay in waiting:
            others = [other for other in stays if other is not stay]
            if _busy(others, stay.rig, stay.arrived, margin_s=-_MARGIN_S) < slots[stay.rig]:
                by_choice += 1
            elif any(
                _busy(others, rig, stay.arrived, margin_s=_MARGIN_S) < number
                for rig, number in slots.items()
            ):
                despite += 1
        return cls(queued=len(waiting), despite_free=despite, by_choice=by_choice)


def stays(turns: Sequence[Turn], queued: Mapping[str, Mapping[str, float]]) -> list[Stay]:
    """Return where each turn was; `queued` has the seconds by request id for each rig."""
    found = []
    for turn in turns:
        (rig,) = (rig for rig, ids in queued.items() if turn.request_id in ids)
        began = turn.asked + queued[rig][turn.request_id]
        found.append(Stay(rig=rig, arrived=turn.asked, began=began, ended=turn.ended))
    return found


def _busy(stays: Sequence[Stay], rig: str, now: float, *, margin_s: float) -> int:
    """Return how many have a slot of the rig: at most, or with a negative margin at least."""
    return sum(
        stay.rig == rig and stay.began - margin_s <= now <= stay.ended + margin_s for stay in stays
    )
