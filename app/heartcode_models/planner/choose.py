"""Decides what a backend serves, on one card or on a group, with a reason for each choice."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import CPU, MINING_CARDS, Card, make_card
from heartcode_models.planner.known_models import LAST_RESORTS, SHAPES, known_model
from heartcode_models.planner.kv_of_layers import kv_of
from heartcode_models.planner.layer_split import MOST_CARDS, Cards, Share, shares
from heartcode_models.planner.settings import HandSet, Settings
from heartcode_models.planner.vram import VramNeed, usable, weights_of
from heartcode_models.units import MIB, mib

#: A conversation of role-play with its character card; beyond it prompts take half a minute and
#: more.
GOOD_CTX = 8192
#: Flash attention's kernel for Pascal has an open report of reads out of bounds above 24k
#: (ggml-org/llama.cpp#22032): stay well below it.
LARGEST_CTX = 16384
#: Less than this is no conversation; the first release's default.
SMALLEST_GOOD_CTX = 4096
CTX_STEP = 1024
#: A better quantisation is taken if it leaves room for this many conversations of GOOD_CTX.
GOOD_SLOTS = 2
#: One card reads its weights once for all slots, but prompts of one stop the answers of the others.
MOST_SLOTS = 4
#: llama.cpp's default, and smaller ones where it is too much.
UBATCHES = (512, 256, 128)


@dataclass(frozen=True, kw_only=True)
class BackendPlan:
    """What one llama-server shall serve, on one card or on a group of them.

    Attributes:
        shares: What each of its cards holds, in the order in which it sees them.
        model: The file to load.
        settings: What decides the VRAM.
        why: A sentence for each choice, by its name.
    """

    shares: tuple[Share, ...]
    model: Model
    settings: Settings
    why: dict[str, str]

    @property
    def cards(self) -> Cards:
        """Its cards, in the order in which llama-server sees them."""
        return tuple(share.card for share in self.shares)

    @property
    def card(self) -> Card:
        """The first card, by which a backend is known."""
        return self.shares[0].card

    @property
    def need(self) -> VramNeed:
        """The VRAM that it takes of all its cards together."""
        return reduce(VramNeed.__add__, (share.need for share in self.shares))

    @property
    def tensor_split(self) -> tuple[int, ...]:
        """Numbers for ``--tensor-split``: how many layers each card has."""
        return tuple(len(share.layers) for share in self.shares)


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a card, or a group of them, can serve nothing, and what would fit."""

    cards: Cards
    reason: str
    would_fit: tuple[str, ...]

    @property
    def card(self) -> Card:
        """The first card."""
        return self.cards[0]


def room(cards: Cards, model: Model, settings: Settings) -> int:
    """Bytes that stay free on the fullest card; negative where they are lacking."""
    return min(share.room for share in shares(cards, model, settings))


def needed(cards: Cards, model: Model, settings: Settings) -> int:
    """Bytes of VRAM of a llama-server with these settings; on the CPU they are RAM."""
    return sum(share.need.total for share in shares(cards, model, settings))


def fits(cards: Cards, model: Model, settings: Settings) -> bool:
    """Whether a llama-server with these settings has room."""
    return room(cards, model, settings) >= 0


def good_settings(model: Model, hand: HandSet) -> Settings:
    """What a quantisation has to leave room for to be chosen; what is set by hand stays."""
    return Settings(
        n_ctx=hand.n_ctx or min(GOOD_CTX, model.n_ctx_train),
        slots=hand.slots or GOOD_SLOTS,
        kv_type=hand.kv_type or "q8_0",
        n_batch=hand.n_batch or UBATCHES[0],
        n_ubatch=hand.n_ubatch or min(UBATCHES[0], hand.n_batch or UBATCHES[0]),
        n_gpu_layers=model.all_layers if hand.n_gpu_layers is None else hand.n_gpu_layers,
        n_cpu_moe=min(hand.n_cpu_moe or 0, model.n_layers),
    )


def plan_card(card: Card, models: Sequence[Model], hand: HandSet) -> BackendPlan | Refusal:
    """The best plan for one card (`plan_backend`)."""
    return plan_backend((card,), models, hand)


def plan_backend(cards: Cards, models: Sequence[Model], hand: HandSet) -> BackendPlan | Refusal:
    """The best plan for a card, or for a group of them.

    The best quantisation that leaves room for GOOD_SLOTS conversations of GOOD_CTX; where none
    does, the smallest one with what it leaves. Then context up to GOOD_CTX, slots, and what is
    left for context.

    Args:
        cards: The card, or those of the group.
        models: The files to choose from, best first.
        hand: What is fixed.

    Raises:
        ModelError: what is fixed contradicts itself or the model.
    """
    for model in models:
        _check(model, hand)
        good = good_settings(model, hand)
        if fits(cards, model, good):
            return _planned(cards, models, model, _grow(cards, model, good, hand), hand)
    smallest = models[-1]
    for n_ubatch in [hand.n_ubatch] if hand.n_ubatch else UBATCHES:
        least = _least(smallest, hand, n_ubatch)
        if fits(cards, smallest, least):
            return _planned(cards, models, smallest, _grow(cards, smallest, least, hand), hand)
    return _refusal(cards, smallest, hand)


def _check(model: Model, hand: HandSet) -> None:
    if hand.n_ubatch and hand.n_batch and hand.n_ubatch > hand.n_batch:
        raise ModelError(
            f"n_ubatch {hand.n_ubatch} is more than n_batch {hand.n_batch}; llama.cpp would use"
            f" {hand.n_batch}. Set n_ubatch to at most n_batch."
        )
    if hand.n_ctx and hand.n_ctx > model.n_ctx_train:
        raise ModelError(
            f"n_ctx {hand.n_ctx} is more than {model.name} was made for ({model.n_ctx_train})"
        )
    if hand.n_cpu_moe and not model.experts:
        raise ModelError(
            f"n_cpu_moe is for mixtures of experts, and {model.name} is none. Leave it out"
        )


def _least(model: Model, hand: HandSet, n_ubatch: int) -> Settings:
    good = good_settings(model, hand)
    return replace(
        good,
        n_ctx=hand.n_ctx or min(SMALLEST_GOOD_CTX, model.n_ctx_train),
        slots=hand.slots or 1,
        n_ubatch=min(n_ubatch, good.n_batch),
    )


def _grow(cards: Cards, model: Model, start: Settings, hand: HandSet) -> Settings:
    """The largest settings that fit: context to GOOD_CTX, then slots, then context again."""
    settings = start
    if not hand.n_ctx:
        limit = min(GOOD_CTX, model.n_ctx_train)
        settings = _largest(cards, model, _with_ctx(settings, limit))
    if not hand.slots:
        settings = _largest(
            cards,
            model,
            (replace(settings, slots=n) for n in range(settings.slots, MOST_SLOTS + 1)),
        )
    if not hand.n_ctx:
        limit = min(LARGEST_CTX, model.n_ctx_train)
        settings = _largest(cards, model, _with_ctx(settings, limit))
    return settings


def _with_ctx(settings: Settings, limit: int) -> Iterable[Settings]:
    yield settings
    for n_ctx in range(settings.n_ctx + CTX_STEP, limit + 1, CTX_STEP):
        yield replace(settings, n_ctx=n_ctx)


def _largest(cards: Cards, model: Model, rising: Iterable[Settings]) -> Settings:
    """The last of `rising` settings that fits; the first one does."""
    best: Settings | None = None
    for settings in rising:
        if best is not None and not fits(cards, model, settings):
            break
        best = settings
    assert best is not None  # noqa: S101 (the first one is always there)
    return best


# --- reasons -----------------------------------------------------------------------------------


def _planned(
    cards: Cards, models: Sequence[Model], model: Model, settings: Settings, hand: HandSet
) -> BackendPlan:
    why = {
        "quantisation": _why_quantisation(cards, models, model, hand),
        "n_ctx": _why_ctx(cards, model, settings),
        "slots": _why_slots(cards, settings, model),
        "kv_type": _why_kv(settings),
        "n_batch": "no more than n_ubatch: the other slots get their tokens after each batch",
        "n_ubatch": _why_ubatch(settings, model),
        "n_gpu_layers": _why_layers(settings, model),
    }
    if settings.n_cpu_moe:
        size = mib(model.experts_of(range(settings.n_cpu_moe)))
        why["n_cpu_moe"] = f"{size} MiB of experts stay in the host's RAM, which reads them slowly"
    by_hand = {name for name in why if getattr(hand, name, None) is not None}
    if cards[0].generation is CPU and not cards[0].host:
        by_hand.discard("n_gpu_layers")
        why["n_gpu_layers"] = "the CPU computes"
    why |= dict.fromkeys(by_hand - {"n_cpu_moe"}, "set by hand, and it fits")
    if settings.n_ctx > LARGEST_CTX:
        why["n_ctx"] += f"; above {LARGEST_CTX} llama.cpp#22032 reports broken answers on Pascal"
    return BackendPlan(
        shares=shares(cards, model, settings), model=model, settings=settings, why=why
    )


def _why_quantisation(cards: Cards, models: Sequence[Model], model: Model, hand: HandSet) -> str:
    if len(models) == 1:
        return "there is no other to choose"
    better = models[: list(models).index(model)]
    if not better:
        return "the best one there is to choose"
    good = good_settings(better[-1], hand)
    lacking = mib(-room(cards, better[-1], good))
    where = "" if len(cards) == 1 else " on a card"
    return (
        f"{better[-1].quantisation} with {good.slots} x {good.n_ctx} tokens lacks {lacking}"
        f" MiB{where}"
    )


def _why_ctx(cards: Cards, model: Model, settings: Settings) -> str:
    if settings.n_ctx >= min(LARGEST_CTX, model.n_ctx_train):
        return "the most that is safe or that the model knows"
    if settings.n_ctx == GOOD_CTX:
        return "enough for a long conversation; room beyond it is better spent on slots"
    where = "" if len(cards) == 1 else " on the fullest card"
    return f"what fits: {mib(room(cards, model, settings))} MiB stay free{where}"


def _why_slots(cards: Cards, settings: Settings, model: Model) -> str:
    if settings.slots == MOST_SLOTS:
        return "more would make each other wait for their prompts"
    one_more = needed(cards, model, replace(settings, slots=settings.slots + 1))
    return f"one more would take {mib(one_more - needed(cards, model, settings))} MiB"


def _why_kv(settings: Settings) -> str:
    if settings.kv_type == "q8_0":
        return "half of f16 at hardly any loss; K and V have to be equal for flash attention"
    return "set by hand"


def _why_ubatch(settings: Settings, model: Model) -> str:
    if settings.n_ubatch >= UBATCHES[0]:
        token = 4 * model.n_embd // 1024
        return f"fastest prompts; each token brings {token} KiB over the link, little even for x1"
    return "smaller buffers make room for context; prompts are read somewhat slower"


def _why_layers(settings: Settings, model: Model) -> str:
    if settings.n_gpu_layers >= model.all_layers:
        return "all layers and the output: each one left to the CPU would slow every token down"
    return "set by hand"


# --- refusals ----------------------------------------------------------------------------------


def _refusal(cards: Cards, model: Model, hand: HandSet) -> Refusal:
    ubatch = hand.n_ubatch or UBATCHES[-1]
    least = _least(model, hand, ubatch)
    what = f"{model.name} {model.quantisation} with {least.slots} x {least.n_ctx} tokens"
    fixed = [
        f"{name} {value}"
        for name in ("n_ctx", "slots", "kv_type", "n_batch", "n_ubatch", "n_gpu_layers")
        if (value := getattr(hand, name)) is not None
    ]
    by_hand = f" (set by hand: {', '.join(fixed)})" if fixed else ""
    total = needed(cards, model, least)
    if len(cards) == 1:
        over, planned_for = mib(-room(cards, model, least)), f"on {named(cards)}"
    else:
        all_room = sum(usable(card.vram) for card in cards)
        over, planned_for = mib(max(total - all_room, 0)), f"on {named(cards)}"
    more = f"{over} MiB more than" if over else "and its layers cannot be shared out within"
    return Refusal(
        cards=cards,
        reason=(
            f"{what} needs {mib(total)} MiB, {more} the"
            f" {sum(usable(card.vram) for card in cards) // MIB} MiB that can be planned for"
            f" {planned_for}{by_hand}"
        ),
        would_fit=tuple(_alternatives(cards, model, least, hand)),
    )


def named(cards: Cards) -> str:
    """Cards in words: ``3 P106-100``, ``2 P106-100 + 1 P104-100``; one card by its name.

    Those that another host lends are its: ``6 P106-100 of rig2 + 6 P106-100``.
    """
    names = [f"{card.name} of {card.host}" if card.host else card.name for card in cards]
    if len(cards) == 1:
        return names[0]
    return " + ".join(f"{count} {name}" for name, count in Counter(names).items())


def _alternatives(cards: Cards, model: Model, least: Settings, hand: HandSet) -> Iterable[str]:
    """What would fit, nearest first."""
    yield from _smaller_settings(cards, model, least, hand)
    yield from _smaller_models(cards, model, least)
    if number := cards_that_hold(cards[-1], model, least, len(cards) + 1):
        if any(card.host for card in cards):
            more = f"{number - len(cards)} {cards[-1].name}"
            yield f"{more} more, in the rig or lent by another helper"
        else:
            yield f"a group of {number} {cards[-1].name}"
    for name in MINING_CARDS if len(cards) == 1 else ():
        other = make_card(name)
        if other and fits((other,), model, least):
            yield f"a card with {other.vram / MIB / 1024:.0f} GB, for example {name}"
            return


def cards_that_hold(card: Card, model: Model, settings: Settings, least: int = 1) -> int | None:
    """How many cards of a kind hold a model, from `least` on; None where no number does."""
    if card.generation is CPU or settings.n_gpu_layers < model.all_layers:
        return None
    most = min(MOST_CARDS, model.all_layers)
    layers = range(model.all_layers)
    held = weights_of(model, layers, settings.n_cpu_moe) + kv_of(model, settings, layers)
    first = max(least, -(-held // max(usable(card.vram), 1)))
    return next((n for n in range(first, most + 1) if fits((card,) * n, model, settings)), None)


def _smaller_settings(cards: Cards, model: Model, least: Settings, hand: HandSet) -> Iterable[str]:
    changes: list[tuple[str, Callable[[int], Settings], range]] = [
        ("n_ctx", lambda n: replace(least, n_ctx=n), range(least.n_ctx - 256, 1023, -256)),
        ("slots", lambda n: replace(least, slots=n), range(least.slots - 1, 0, -1)),
        ("n_ubatch", lambda n: replace(least, n_ubatch=n), range(least.n_ubatch - 64, 63, -64)),
    ]
    for name, changed, values in changes:
        if getattr(hand, name) is None and name != "n_ctx":
            continue
        value = next((n for n in values if fits(cards, model, changed(n))), None)
        if value is not None:
            yield f"{name} {value}" + ("" if hand.n_ctx or name != "n_ctx" else ", set by hand")
    if least.kv_type != "q4_0" and fits(cards, model, replace(least, kv_type="q4_0")):
        yield "kv_type q4_0 (worse answers in long conversations)"


def _smaller_models(cards: Cards, model: Model, least: Settings) -> Iterable[str]:
    size = next((key for key, shape in SHAPES.items() if shape.name == model.name), None)
    if size:
        for quantisation in LAST_RESORTS:
            smaller = known_model(size, quantisation)
            if fits(cards, smaller, least):
                yield f"{model.name} {quantisation} (visibly worse answers)"
                break
    for key, shape in SHAPES.items():
        for quantisation in ("Q6_K", "Q5_K_M", "Q4_K_M"):
            other = known_model(key, quantisation)
            if other.file_bytes < model.file_bytes and shape.name != model.name:
                whole = replace(least, n_gpu_layers=other.all_layers, n_cpu_moe=0)
                if fits(cards, other, whole):
                    yield f"a smaller model, for example {shape.name} {quantisation}"
                    return
