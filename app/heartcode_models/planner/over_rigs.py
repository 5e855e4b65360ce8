"""Plans a model that outgrows a rig over all of its cards and those that other hosts lend it."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import AND, AT, CPU, Helper, Rig, nominal_ram
from heartcode_models.planner.choose import BackendPlan, named
from heartcode_models.planner.grouping import few_cards, mixed
from heartcode_models.planner.host_ram import lending_ram
from heartcode_models.planner.layer_split import MOST_CARDS, Cards
from heartcode_models.planner.network import crossing_s
from heartcode_models.planner.rig_plan import RigPlan, plan_rig
from heartcode_models.planner.settings import HandSet
from heartcode_models.planner.speed import tokens_per_second
from heartcode_models.units import MIB, mib

#: Why the cards of a rig with helpers cannot be those of several backends.
ONE_ENTRY = (
    "llama_server_gpus has {entries} entries, and a rig with llama_server_helpers serves one model"
    " on all of its cards: leave llama_server_gpus out, or give it one entry (gpus: [0, 1])"
)


def devices(rig: Rig) -> Cards:
    """The cards of the only backend of a rig with helpers, in the order of its devices.

    Those of the helpers come first and the rig's own last: the output is on the last one, so that
    logits stay off the network. A rig whose CPU computes has no device of its own beside theirs.
    """
    lent = tuple(card for helper in rig.helpers for card in helper.cards)
    return lent + tuple(card for card in rig.cards if card.generation is not CPU)


def cannot_be_one(rig: Rig) -> tuple[str, ...]:
    """Why a rig and its helpers cannot serve one model together, a sentence for each reason."""
    faults = []
    names = Counter(helper.name for helper in rig.helpers)
    if twice := [name for name, count in names.items() if count > 1]:
        faults.append(f"the helper {twice[0]} is named twice; name each once")
    if rig.name in names:
        faults.append(f"{rig.name} cannot be its own helper; name other hosts")
    faults += [
        f"the helper {name} has a {AND} or {AT} in its name, by which cards are told apart; give it"
        " another one in the inventory"
        for name in names
        if AND in name or AT in name
    ]
    if rig.cards and (fault := mixed(rig.cards)):
        faults.append(f"{rig.name}, which serves one model on all of its cards, {fault}")
    faults += _mixed(rig)
    count = len(devices(rig))
    if count > MOST_CARDS:
        faults.append(
            f"{rig.name} and its helpers have {count} cards, and llama.cpp computes on"
            f" {MOST_CARDS} at most: leave out {count - MOST_CARDS} of them, or a helper"
        )
    return tuple(faults)


def _mixed(rig: Rig) -> list[str]:
    """A sentence for each helper whose cards are of another generation than the rig's."""
    told = []
    for helper in rig.helpers:
        first = next(iter((*rig.cards, *devices(rig))), None)
        other = next((c for c in helper.cards if first and c.generation != first.generation), None)
        if first and other:
            told.append(
                f"{rig.name} has {first.name} ({first.generation.name or 'unknown'}) and its helper"
                f" {helper.name} {other.name} ({other.generation.name or 'unknown'}): a model is"
                " shared out among cards of one generation, for which llama.cpp is built and CUDA's"
                f" share is known. Leave these cards of {helper.name} out, or the helper"
            )
    return told


def plan_over_rigs(
    rig: Rig,
    models: Sequence[Model],
    hand: HandSet,
    own: HandSet | None = None,
    own_models: Sequence[Model] = (),
) -> RigPlan:
    """The plan of a rig with helpers: one backend, on all of their cards.

    Args:
        rig: The rig, with its helpers.
        models: The files to choose from, best first.
        hand: What is fixed.
        own: What is fixed for the backend alone; it comes before `hand`.
        own_models: The backend's own files; none means `models`.

    Raises:
        ModelError: they cannot be one backend, or what is fixed contradicts itself.
    """
    if faults := cannot_be_one(rig):
        raise ModelError(". ".join(faults))
    fixed = own or HandSet()
    plan = plan_rig(rig, models, hand, [fixed], [own_models], groups=[devices(rig)])
    if not plan.servers:
        return plan
    plan = _for_the_helpers(plan, hand, fixed)
    (server,) = plan.servers
    notes = [*_crossing(rig, server.plan), *_alone(rig, server.plan, fixed.over(hand))]
    short = [problem for helper in rig.helpers for problem in _short(helper, server.plan)]
    return replace(plan, notes=(*plan.notes, *notes), problems=(*plan.problems, *short))


def _for_the_helpers(plan: RigPlan, hand: HandSet, fixed: HandSet) -> RigPlan:
    """The plan with fewer slots where the RAM of a helper wants it; what is set by hand stays."""
    rig, (server,) = plan.rig, plan.servers
    model, wanted = server.plan.model, server.plan.settings.slots
    enough = next(
        (n for n in range(wanted, 1, -1) if all(_lends(one, model, n) for one in rig.helpers)), 1
    )
    if fixed.over(hand).slots or enough == wanted:
        return plan
    own = replace(fixed, slots=enough)
    fewer = plan_rig(rig, [model], hand, [own], groups=[devices(rig)])
    (other,) = fewer.servers
    why = other.plan.why | {
        "quantisation": server.plan.why["quantisation"],
        "slots": "a helper's RAM is not enough for more",
    }
    return replace(fewer, servers=(replace(other, plan=replace(other.plan, why=why)),))


def _lends(helper: Helper, model: Model, slots: int) -> bool:
    """Whether a helper has the RAM to lend all of its cards."""
    return _lendable(helper, model, slots) == len(helper.cards)


def _lendable(helper: Helper, model: Model, slots: int) -> int:
    """How many of its cards a helper has the RAM to lend; where its CPU computes, all."""
    count = len(helper.cards)
    if not count or helper.cards[0].generation is CPU:
        return count  # its RAM is what is planned with
    kind = helper.cards[0].generation
    return sum(lending_ram(model, kind, n, slots) <= helper.ram for n in range(1, count + 1))


def _crossing(rig: Rig, plan: BackendPlan) -> list[str]:
    """How long a model, its tokens and its prompts take to the cards of other hosts."""
    settings, over = plan.settings, f"over a network of {rig.network // MIB} MiB/s"
    sent = sum(share.need.weights for share in plan.shares if share.card.host)
    batch = settings.computed_together
    token = crossing_s(plan, rig.network)
    first = crossing_s(plan, rig.network, batch, batch)
    last = crossing_s(plan, rig.network, batch, settings.ctx_per_slot)
    start = f"{over} the helpers get {mib(sent)} MiB at each start, in {sent / rig.network:.0f} s"
    under_way = (
        f"{over} a token is under way for {token * 1000:.1f} ms, and {batch} tokens of a prompt for"
        f" {first:.2f} s at its beginning and {last:.2f} s at the end of the context"
    )
    return [start, under_way]


def _alone(rig: Rig, plan: BackendPlan, hand: HandSet) -> list[str]:
    """A note where the rig's own cards hold the model: helpers make nothing faster."""
    if not rig.cards:
        return []
    computed = rig.cards[0].generation is CPU
    fixed = replace(hand, n_gpu_layers=0) if computed else hand
    cards = few_cards(rig, [plan.model], fixed).groups[0]
    own = plan_rig(replace(rig, helpers=()), [plan.model], fixed, groups=[cards])
    if not own.works:
        return []
    alone = own.servers[0].plan
    note = (
        f"{rig.name} holds {plan.model.name} {plan.model.quantisation} without help, on"
        f" {named(cards)}: helpers cost speed"
    )
    over, here = tokens_per_second(plan, rig.network), tokens_per_second(alone)
    if over and here:
        note += f", {over:.1f} for {here:.1f} tokens/s"
    return [f"{note}. They are for models that it does not hold"]


def _short(helper: Helper, plan: BackendPlan) -> list[str]:
    """A sentence where a helper's RAM is not enough for what its cards take of it."""
    count, slots = len(helper.cards), plan.settings.slots
    fewer = _lendable(helper, plan.model, slots)
    if fewer == count:
        return []
    need = lending_ram(plan.model, helper.cards[0].generation, count, slots)
    ways = [f"{fewer} of its cards"] if fewer else []
    if less := next((n for n in range(slots - 1, 0, -1) if _lends(helper, plan.model, n)), 0):
        ways.append(f"slots {less}")
    gigabytes = next(size for size in itertools.count(2, 2) if nominal_ram(size) >= need)
    text = (
        f"to lend {count} cards {helper.name} needs {mib(need)} MiB of RAM and has"
        f" {mib(helper.ram)}; would fit: {', '.join([*ways, f'{gigabytes} GB of RAM'])}"
    )
    return [text]
