"""Decides what a card serves, with a reason for each choice."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import CPU, MINING_CARDS, Card, make_card
from heartcode_models.planner.host_ram import cpu_need
from heartcode_models.planner.known_models import LAST_RESORTS, SHAPES, known_model
from heartcode_models.planner.settings import HandSet, Settings
from heartcode_models.planner.vram import VramNeed, usable, vram_need
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
class CardPlan:
    """What one card shall serve.

    Attributes:
        card: The card.
        model: The file to load.
        settings: What decides the VRAM.
        need: The VRAM it takes.
        why: A sentence for each choice, by its name.
    """

    card: Card
    model: Model
    settings: Settings
    need: VramNeed
    why: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a card can serve nothing, and what would fit."""

    card: Card
    reason: str
    would_fit: tuple[str, ...]


def need_on(card: Card, model: Model, settings: Settings) -> VramNeed:
    """VRAM of a llama-server with these settings on a card; of the CPU it is RAM."""
    if card.generation is CPU:
        return cpu_need(model, settings)
    return vram_need(model, settings, generation=card.generation)


def fits(card: Card, model: Model, settings: Settings) -> bool:
    """Whether a llama-server with these settings has room on a card."""
    return need_on(card, model, settings).total <= usable(card.vram)


def good_settings(model: Model, hand: HandSet) -> Settings:
    """What a quantisation has to leave room for to be chosen; what is set by hand stays."""
    return Settings(
        n_ctx=hand.n_ctx or min(GOOD_CTX, model.n_ctx_train),
        slots=hand.slots or GOOD_SLOTS,
        kv_type=hand.kv_type or "q8_0",
        n_batch=hand.n_batch or UBATCHES[0],
        n_ubatch=hand.n_ubatch or min(UBATCHES[0], hand.n_batch or UBATCHES[0]),
        n_gpu_layers=model.all_layers if hand.n_gpu_layers is None else hand.n_gpu_layers,
    )


def plan_card(card: Card, models: Sequence[Model], hand: HandSet) -> CardPlan | Refusal:
    """The best plan for a card.

    The best quantisation that leaves room for GOOD_SLOTS conversations of GOOD_CTX; where none
    does, the smallest one with what it leaves. Then context up to GOOD_CTX, slots, and what is
    left for context.

    Args:
        card: The card.
        models: The files to choose from, best first.
        hand: What is fixed.

    Raises:
        ModelError: what is fixed contradicts itself or the model.
    """
    for model in models:
        _check(model, hand)
        good = good_settings(model, hand)
        if fits(card, model, good):
            return _planned(card, models, model, _grow(card, model, good, hand), hand)
    smallest = models[-1]
    for n_ubatch in [hand.n_ubatch] if hand.n_ubatch else UBATCHES:
        least = _least(smallest, hand, n_ubatch)
        if fits(card, smallest, least):
            return _planned(card, models, smallest, _grow(card, smallest, least, hand), hand)
    return _refusal(card, smallest, hand)


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


def _least(model: Model, hand: HandSet, n_ubatch: int) -> Settings:
    good = good_settings(model, hand)
    return replace(
        good,
        n_ctx=hand.n_ctx or min(SMALLEST_GOOD_CTX, model.n_ctx_train),
        slots=hand.slots or 1,
        n_ubatch=min(n_ubatch, good.n_batch),
    )


def _grow(card: Card, model: Model, start: Settings, hand: HandSet) -> Settings:
    """The largest settings that fit: context to GOOD_CTX, then slots, then context again."""
    settings = start
    if not hand.n_ctx:
        limit = min(GOOD_CTX, model.n_ctx_train)
        settings = _largest(card, model, _with_ctx(settings, limit))
    if not hand.slots:
        settings = _largest(
            card, model, (replace(settings, slots=n) for n in range(settings.slots, MOST_SLOTS + 1))
        )
    if not hand.n_ctx:
        limit = min(LARGEST_CTX, model.n_ctx_train)
        settings = _largest(card, model, _with_ctx(settings, limit))
    return settings


def _with_ctx(settings: Settings, limit: int) -> Iterable[Settings]:
    yield settings
    for n_ctx in range(settings.n_ctx + CTX_STEP, limit + 1, CTX_STEP):
        yield replace(settings, n_ctx=n_ctx)


def _largest(card: Card, model: Model, rising: Iterable[Settings]) -> Settings:
    """The last of `rising` settings that fits; the first one does."""
    best: Settings | None = None
    for settings in rising:
        if best is not None and not fits(card, model, settings):
            break
        best = settings
    assert best is not None  # noqa: S101 (the first one is always there)
    return best


# --- reasons -----------------------------------------------------------------------------------


def _planned(
    card: Card, models: Sequence[Model], model: Model, settings: Settings, hand: HandSet
) -> CardPlan:
    need = need_on(card, model, settings)
    why = {
        "quantisation": _why_quantisation(card, models, model, hand),
        "n_ctx": _why_ctx(card, model, settings),
        "slots": _why_slots(card, settings, model),
        "kv_type": _why_kv(settings),
        "n_batch": "no more than n_ubatch: the other slots get their tokens after each batch",
        "n_ubatch": _why_ubatch(settings, model),
        "n_gpu_layers": _why_layers(settings, model),
    }
    by_hand = {name for name in why if getattr(hand, name, None) is not None}
    if card.generation is CPU:
        by_hand.discard("n_gpu_layers")
        why["n_gpu_layers"] = "the CPU computes"
    why |= dict.fromkeys(by_hand, "set by hand, and it fits")
    if settings.n_ctx > LARGEST_CTX:
        why["n_ctx"] += f"; above {LARGEST_CTX} llama.cpp#22032 reports broken answers on Pascal"
    return CardPlan(card=card, model=model, settings=settings, need=need, why=why)


def _why_quantisation(card: Card, models: Sequence[Model], model: Model, hand: HandSet) -> str:
    if len(models) == 1:
        return "the file that was given"
    better = models[: list(models).index(model)]
    if not better:
        return "the best one there is to choose"
    good = good_settings(better[-1], hand)
    lacking = mib(need_on(card, better[-1], good).total - usable(card.vram))
    return f"{better[-1].quantisation} with {good.slots} x {good.n_ctx} tokens lacks {lacking} MiB"


def _why_ctx(card: Card, model: Model, settings: Settings) -> str:
    if settings.n_ctx >= min(LARGEST_CTX, model.n_ctx_train):
        return "the most that is safe or that the model knows"
    if settings.n_ctx == GOOD_CTX:
        return "enough for a long conversation; room beyond it is better spent on slots"
    free = mib(usable(card.vram) - need_on(card, model, settings).total)
    return f"what fits: {free} MiB stay free"


def _why_slots(card: Card, settings: Settings, model: Model) -> str:
    if settings.slots == MOST_SLOTS:
        return "more would make each other wait for their prompts"
    need = need_on(card, model, settings)
    one_more = need_on(card, model, replace(settings, slots=settings.slots + 1))
    return f"one more would take {mib(one_more.total - need.total)} MiB"


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


def _refusal(card: Card, model: Model, hand: HandSet) -> Refusal:
    ubatch = hand.n_ubatch or UBATCHES[-1]
    least = _least(model, hand, ubatch)
    need = need_on(card, model, least)
    over = mib(need.total - usable(card.vram))
    what = f"{model.name} {model.quantisation} with {least.slots} x {least.n_ctx} tokens"
    fixed = [
        f"{name} {value}"
        for name in ("n_ctx", "slots", "kv_type", "n_batch", "n_ubatch", "n_gpu_layers")
        if (value := getattr(hand, name)) is not None
    ]
    by_hand = f" (set by hand: {', '.join(fixed)})" if fixed else ""
    return Refusal(
        card=card,
        reason=(
            f"{what} needs {mib(need.total)} MiB, {over} MiB more than the"
            f" {usable(card.vram) // MIB} MiB that can be planned for on {card.name}{by_hand}"
        ),
        would_fit=tuple(_alternatives(card, model, least, hand)),
    )


def _alternatives(card: Card, model: Model, least: Settings, hand: HandSet) -> Iterable[str]:
    """What would fit, nearest first."""
    yield from _smaller_settings(card, model, least, hand)
    yield from _smaller_models(card, model, least)
    for name in MINING_CARDS:
        other = make_card(name)
        if other and fits(other, model, least):
            yield f"a card with {other.vram / MIB / 1024:.0f} GB, for example {name}"
            return


def _smaller_settings(card: Card, model: Model, least: Settings, hand: HandSet) -> Iterable[str]:
    changes: list[tuple[str, Callable[[int], Settings], range]] = [
        ("n_ctx", lambda n: replace(least, n_ctx=n), range(least.n_ctx - 256, 1023, -256)),
        ("slots", lambda n: replace(least, slots=n), range(least.slots - 1, 0, -1)),
        ("n_ubatch", lambda n: replace(least, n_ubatch=n), range(least.n_ubatch - 64, 63, -64)),
    ]
    for name, changed, values in changes:
        if getattr(hand, name) is None and name != "n_ctx":
            continue
        value = next((n for n in values if fits(card, model, changed(n))), None)
        if value is not None:
            yield f"{name} {value}" + ("" if hand.n_ctx or name != "n_ctx" else ", set by hand")
    if least.kv_type != "q4_0" and fits(card, model, replace(least, kv_type="q4_0")):
        yield "kv_type q4_0 (worse answers in long conversations)"


def _smaller_models(card: Card, model: Model, least: Settings) -> Iterable[str]:
    size = next((key for key, shape in SHAPES.items() if shape.name == model.name), None)
    if size:
        for quantisation in LAST_RESORTS:
            smaller = known_model(size, quantisation)
            if fits(card, smaller, least):
                yield f"{model.name} {quantisation} (visibly worse answers)"
                break
    for key, shape in SHAPES.items():
        for quantisation in ("Q6_K", "Q5_K_M", "Q4_K_M"):
            other = known_model(key, quantisation)
            if other.file_bytes < model.file_bytes and shape.name != model.name:
                whole = replace(least, n_gpu_layers=other.all_layers)
                if fits(card, other, whole):
                    yield f"a smaller model, for example {shape.name} {quantisation}"
                    return
