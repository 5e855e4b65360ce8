"""What is worth measuring on a card: the grid, without what its memory does not hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import UNKNOWN, Card
from heartcode_models.planner.layer_split import needs
from heartcode_models.planner.settings import Settings, layers_of
from heartcode_models.planner.vram import VramNeed, usable
from heartcode_models.tuning.candidate import NAMES, Candidate, checked
from heartcode_models.tuning.card import TunedCard
from heartcode_models.units import mib


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What to measure on a card, and a sentence for each candidate that does not fit."""

    candidates: tuple[Candidate, ...]
    left_out: tuple[str, ...]


def grid_of(card: TunedCard, model: Model, values: Mapping[str, Sequence[Any]]) -> Grid:
    """Every combination of `values` that works and fits, what the card runs with first.

    Args:
        card: The card; what is fixed on it takes the place of a name's values.
        model: What it shall serve.
        values: Values to try, by the names of a candidate.

    Raises:
        ModelError: a value cannot be, or nothing is left.
    """
    ranges = [_range(name, values, card) for name in NAMES]
    combined = [Candidate(**dict(zip(NAMES, some, strict=True))) for some in product(*ranges)]
    wanted = [
        candidate for candidate in dict.fromkeys([card.current, *combined]) if candidate.works
    ]
    lacking = {candidate: _lacking(card, model, candidate) for candidate in wanted}
    fitting = tuple(candidate for candidate in wanted if lacking[candidate] <= 0)
    left_out = tuple(
        f"{candidate}: lacks {mib(lacking[candidate])} MiB"
        for candidate in wanted
        if lacking[candidate] > 0
    )
    if not fitting:
        why = "; ".join(left_out) or "without flash attention kv_type has to be f16"
        raise ModelError(
            f"{card.where}: no settings to measure fit {card.slots} x {card.n_ctx} tokens: {why}."
            " playbooks/plan.yml says what would"
        )
    return Grid(candidates=fitting, left_out=left_out)


def _range(name: str, values: Mapping[str, Sequence[Any]], card: TunedCard) -> Sequence[Any]:
    if name in card.fixed:
        return (card.fixed[name],)
    tried = values.get(name) or ()
    if not isinstance(tried, list | tuple) or not tried:
        raise ModelError(f"tuning_grid.{name} must be a list of values to try")
    return [checked(name, value, "tuning_grid") for value in tried]


def needed(card: TunedCard, model: Model, candidate: Candidate) -> int:
    """Bytes of VRAM that the backend takes with a candidate, of all its cards."""
    return sum(need.total for need in _needs(card, model, candidate))


def _needs(card: TunedCard, model: Model, candidate: Candidate) -> tuple[VramNeed, ...]:
    settings = Settings(
        n_ctx=card.n_ctx,
        slots=card.slots,
        kv_type=candidate.kv_type,
        n_batch=candidate.n_batch,
        n_ubatch=candidate.n_ubatch,
        n_gpu_layers=layers_of(card.n_gpu_layers, model),
    )
    cards = card.cards or (Card(name="", vram=0, generation=UNKNOWN),)
    return needs(
        cards, model, settings, card.tensor_split, flash_attention=candidate.flash_attention
    )


def _lacking(card: TunedCard, model: Model, candidate: Candidate) -> int:
    """Bytes that a candidate needs beyond what can be planned for; 0 or less: it fits."""
    if not card.cards:
        return 0
    return max(
        need.total - usable(one.vram)
        for one, need in zip(card.cards, _needs(card, model, candidate), strict=True)
    )


def measured_turn(card: TunedCard, turn: Mapping[str, int], depth: int) -> dict[str, int]:
    """What llama-bench measures: the turn of a chat behind `depth` tokens, cut to the context."""
    answer = min(turn["answer_tokens"], card.n_ctx // 2)
    prompt = min(turn["prompt_tokens"], card.n_ctx - answer)
    return {
        "prompt_tokens": prompt,
        "answer_tokens": answer,
        "depth": max(0, min(depth, card.n_ctx - answer - prompt)),
    }
