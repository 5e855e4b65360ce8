"""Which cards of a rig serve a model together."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import Rig
from heartcode_models.planner.choose import BackendPlan, plan_backend
from heartcode_models.planner.known_models import QUANTISATIONS, SHAPES, known_model
from heartcode_models.planner.layer_split import Cards
from heartcode_models.planner.rig_plan import RigPlan, plan_rig
from heartcode_models.planner.settings import HandSet

#: What a rig is asked about beside the model that is meant.
_PROPOSED = ("8B", "12B", "24B", "30B-A3B")
#: How many cards for a model are proposed, fewest first.
_MOST_PROPOSED = 3


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The cards of each backend, and those that are left.

    Attributes:
        groups: In the order of the backends.
        left: Numbers of the cards that no backend has.
    """

    groups: tuple[Cards, ...]
    left: tuple[int, ...]


def few_cards(rig: Rig, models: Sequence[Model], hand: HandSet) -> Grouping:
    """As few cards for each backend as hold the model, each group of one generation.

    A card that holds it alone is alone, the others are taken in their order. Where no cards hold
    it, all of a generation are one group, whose refusal says what they lack.
    """
    alone = tuple((card,) for card in rig.cards)
    if _is_partial(models, hand):
        return Grouping(groups=alone, left=())
    groups: list[Cards] = []
    waiting: dict[str, list[int]] = {}
    for number, card in enumerate(rig.cards):
        if _holds((card,), models, hand):
            groups.append((card,))
            continue
        beside = waiting.setdefault(card.generation.name, [])
        beside.append(number)
        together = tuple(rig.cards[one] for one in beside)
        if len(beside) > 1 and _holds(together, models, hand):
            groups.append(together)
            beside.clear()
    left = sorted(one for beside in waiting.values() for one in beside)
    if not groups:
        return Grouping(groups=_by_generation(rig), left=())
    if all(len(group) == 1 for group in groups):
        return Grouping(groups=alone, left=())  # each of the others says what it lacks
    return Grouping(groups=tuple(groups), left=tuple(left))


def mixed(cards: Cards) -> str | None:
    """Why these cannot be a group, None where they can."""
    kinds = {card.generation.name: card.name for card in cards}
    if len(kinds) == 1:
        return None
    apart = " from ".join(f"{card} ({name or 'unknown'})" for name, card in kinds.items())
    return (
        "mixes cards of different generations, for which llama.cpp is built and CUDA's share is"
        f" known apart: keep {apart}"
    )


def _by_generation(rig: Rig) -> tuple[Cards, ...]:
    """All cards of each generation."""
    kinds: dict[str, list[int]] = {}
    for number, card in enumerate(rig.cards):
        kinds.setdefault(card.generation.name, []).append(number)
    return tuple(tuple(rig.cards[one] for one in numbers) for numbers in kinds.values())


def _holds(cards: Cards, models: Sequence[Model], hand: HandSet) -> bool:
    return isinstance(plan_backend(cards, models, hand), BackendPlan)


def _is_partial(models: Sequence[Model], hand: HandSet) -> bool:
    """Whether layers are to be left to the CPU, so that one card always does."""
    return hand.n_gpu_layers is not None and hand.n_gpu_layers < models[-1].all_layers


def asked_for(rig: Rig, text: str) -> Grouping:
    """The groups that a person has asked for.

    Args:
        rig: The rig.
        text: How many cards each group has (``3``), or each group's cards by their numbers from 0
            (``0+1+2,3+4+5``).

    Raises:
        ModelError: it cannot be understood, names a card twice or one that is not there, or would
            mix generations; the message says what would work.
    """
    numbers = range(len(rig.cards))
    if re.fullmatch(r"\s*[0-9]{1,4}\s*", text):
        size = int(text)
        if not 1 <= size <= len(rig.cards):
            raise ModelError(
                f"groups of {size} cards: {rig.name} has {len(rig.cards)}; give 1 to"
                f" {len(rig.cards)}"
            )
        groups = [list(numbers[i : i + size]) for i in range(0, len(rig.cards) - size + 1, size)]
    elif re.fullmatch(r"\s*[0-9]{1,4}(\s*[+,]\s*[0-9]{1,4})*\s*", text):
        groups = [[int(one) for one in group.split("+")] for group in text.split(",")]
    else:
        raise ModelError(
            f"groups '{text}' are not understood: give the cards of each, as in '3', or their"
            " numbers from 0, as in '0+1+2,3+4+5'"
        )
    _check(rig, groups)
    named = [one for group in groups for one in group]
    return Grouping(
        groups=tuple(tuple(rig.cards[one] for one in group) for group in groups),
        left=tuple(one for one in numbers if one not in named),
    )


def _check(rig: Rig, groups: Sequence[Sequence[int]]) -> None:
    seen: dict[int, int] = {}
    last = len(rig.cards) - 1
    for number, group in enumerate(groups):
        for card in group:
            if card > last:
                raise ModelError(f"{rig.name} has no card {card}: its cards are 0 to {last}")
            if card in seen:
                where = f"groups {seen[card]} and {number}" if seen[card] != number else "a group"
                raise ModelError(
                    f"card {card} stands twice in {where}; a card serves one backend: name it once"
                )
            seen[card] = number
        if fault := mixed(tuple(rig.cards[card] for card in group)):
            raise ModelError(f"group {number} {fault}")


def plan_grouped(
    rig: Rig, models: Sequence[Model], hand: HandSet, groups: str | None = None
) -> RigPlan:
    """A rig's plan with the groups that are asked for, or with as few cards each as hold the model.

    Raises:
        ModelError: what is asked for cannot be.
    """
    made = asked_for(rig, groups) if groups else few_cards(rig, models, hand)
    plan = plan_rig(rig, models, hand, groups=made.groups)
    return replace(plan, notes=(*plan.notes, *left_over(rig, made, "--groups")))


def left_over(rig: Rig, made: Grouping, way: str) -> tuple[str, ...]:
    """A sentence where cards are left, with the way to larger groups."""
    if not made.left:
        return ()
    cards = ", ".join(rig.cards[one].uuid or str(one) for one in made.left)
    one = len(made.left) == 1
    note = (
        f"card{'' if one else 's'} {cards} {'is' if one else 'are'} left and serve{'s' * one}"
        f" nothing here: another model, or larger groups ({way}), would use"
        f" {'it' if one else 'them'}"
    )
    return (note,)


def proposals(rig: Rig, models: Sequence[Model], hand: HandSet) -> Iterator[RigPlan]:
    """What the rig could serve with other models and other groups, those of few cards first.

    Of each model the fewest cards that hold it, and more where they hold a better quantisation or
    more tokens.
    """
    is_proposed = models[0].name in {SHAPES[size].name for size in _PROPOSED}
    offered = [] if is_proposed else [list(models)]
    for choice in (*offered, *_choices()):
        found = 0
        best: tuple[int, ...] = ()
        count = len(rig.cards)
        for size in range(1, count + 1):
            if found == _MOST_PROPOSED:
                break
            if found and size < count and count // size == count // (size + 1):
                continue  # one card more for each makes no group less
            plan = _tried(rig, choice, hand, size)
            if plan is None or (worth := _worth(plan, choice)) <= best:
                continue
            best, found = worth, found + 1
            yield plan


def _choices() -> list[list[Model]]:
    return [[known_model(size, one) for one in QUANTISATIONS] for size in _PROPOSED]


def _tried(rig: Rig, models: Sequence[Model], hand: HandSet, size: int) -> RigPlan | None:
    try:
        plan = plan_grouped(rig, models, hand, str(size))
    except ModelError:
        return None
    return plan if plan.works else None


def _worth(plan: RigPlan, models: Sequence[Model]) -> tuple[int, ...]:
    first = plan.servers[0].plan
    return (
        -list(models).index(first.model),
        min(first.settings.n_ctx, 8192),
        first.settings.slots,
        first.settings.n_ctx,
    )
