"""What tuning found: a table for people, and data for the next deployment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heartcode_models.planner.choose import named
from heartcode_models.tuning.card import TunedCard
from heartcode_models.tuning.choose import Measured, Turn

_COLUMNS = ("RIG", "CARD", "", "BATCH", "KV", "FLASH ATTENTION", "PROMPT/S", "DECODE/S", "TURN s")
_NOTHING = "-"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A card's tuning.

    Attributes:
        card: The card.
        before: What its backend runs with, None where that could not be measured.
        after: The best, None where nothing could be measured.
        remarks: What else happened, a sentence each.
    """

    card: TunedCard
    before: Measured | None
    after: Measured | None
    remarks: Sequence[str] = ()


def table(outcomes: Sequence[Outcome], turn: Turn) -> str:
    """Two lines for each card, before and after, and the remarks."""
    rows = [_COLUMNS, *(row for outcome in outcomes for row in _rows(outcome, turn))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    remarks = [f"{o.card.where}: {remark}" for o in outcomes for remark in o.remarks]
    explained = (
        f"BATCH: batch/ubatch. TURN: {turn.prompt_tokens} tokens of prompt and"
        f" {turn.answer_tokens} of answer."
    )
    return "\n".join([*lines, "", explained, *remarks])


def _rows(outcome: Outcome, turn: Turn) -> Iterator[tuple[str, ...]]:
    name = named(outcome.card.cards) if outcome.card.cards else outcome.card.uuid
    yield (outcome.card.rig, name, "before", *_cells(outcome.before, turn))
    same = outcome.after is not None and outcome.after == outcome.before
    yield ("", "", "as it is" if same else "after", *_cells(outcome.after, turn))


def _cells(measured: Measured | None, turn: Turn) -> tuple[str, ...]:
    if measured is None:
        return (_NOTHING,) * (len(_COLUMNS) - 3)
    candidate = measured.candidate
    return (
        f"{candidate.n_batch}/{candidate.n_ubatch}",
        candidate.kv_type,
        "on" if candidate.flash_attention else "off",
        f"{measured.prompt:.1f}",
        f"{measured.decode:.1f}",
        f"{measured.seconds(turn):.2f}",
    )


def entries(outcomes: Sequence[Outcome]) -> Mapping[str, Any]:
    """What the role llama_server reads, by UUID; nothing for cards without a measurement."""
    return {
        outcome.card.uuid: {
            "measured_with": {
                "model_file": outcome.card.model_file,
                "n_ctx": outcome.card.n_ctx,
                "slots": outcome.card.slots,
                "n_gpu_layers": outcome.card.n_gpu_layers,
            },
            "settings": outcome.after.candidate.as_data(),
            "speeds": {
                "prompt": round(outcome.after.prompt, 1),
                "decode": round(outcome.after.decode, 1),
            },
        }
        for outcome in outcomes
        if outcome.after
    }
