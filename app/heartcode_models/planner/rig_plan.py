"""Decides for a whole rig: its backends, and what they share of the host."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from heartcode_models.errors import ModelError
from heartcode_models.gguf.kv_cache import kv_bytes_per_token
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import CPU, HOPPER, UNKNOWN, X1_LINK, Rig, nominal_ram
from heartcode_models.planner.choose import MOST_SLOTS, BackendPlan, Refusal, plan_backend
from heartcode_models.planner.host_ram import LlamaServer, RamNeed, cache_for_each, ram_need
from heartcode_models.planner.known_models import SHAPES
from heartcode_models.planner.layer_split import Cards, Share
from heartcode_models.planner.settings import HandSet, Settings
from heartcode_models.planner.speed import HOST_BANDWIDTH
from heartcode_models.units import MIB, mib

#: docs/adr/0006-threads.md.
_MOST_THREADS = 4
#: A link this slow is said something about.
_SLOW_LINK = 2 * X1_LINK


@dataclass(frozen=True, kw_only=True)
class Server:
    """One backend's llama-server: its plan and its share of the host."""

    plan: BackendPlan
    cache_ram_mib: int
    n_threads: int
    why: dict[str, str]

    @property
    def cached_tokens(self) -> int:
        """How many tokens of conversations that lost their slot `cache_ram_mib` holds."""
        per_token = kv_bytes_per_token(self.plan.model, self.plan.settings.kv_type)
        return self.cache_ram_mib * MIB // per_token


@dataclass(frozen=True, kw_only=True)
class RigPlan:
    """A rig's plan.

    Attributes:
        rig: The rig.
        servers: One for each card or group that can serve, in the cards' order.
        refusals: The cards and groups that cannot.
        load_mode: For all of them.
        why_load_mode: A sentence.
        ram: Host RAM that is needed, cached prompts not counted.
        problems: What keeps the plan from working though the cards would do, a sentence each.
        notes: What else is worth knowing.
    """

    rig: Rig
    servers: tuple[Server, ...]
    refusals: tuple[Refusal, ...]
    load_mode: str
    why_load_mode: str
    ram: RamNeed
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether every card or group can serve as planned."""
        return bool(self.servers) and not self.refusals and not self.problems


def plan_rig(
    rig: Rig,
    models: Sequence[Model],
    hand: HandSet,
    by_card: Sequence[HandSet] = (),
    own_models: Sequence[Sequence[Model]] = (),
    *,
    groups: Sequence[Cards] = (),
) -> RigPlan:
    """Plan for every card of a rig, or for groups of them.

    Args:
        rig: The rig.
        models: The files to choose from, best first.
        hand: What is fixed for all cards.
        by_card: What is fixed for single backends, in their order; it comes before `hand`.
        own_models: The files of single backends, in their order; none means `models`.
        groups: The cards of each backend; none means one for each card.

    Raises:
        ModelError: the rig has no cards, or what is fixed contradicts itself.
    """
    if not rig.cards:
        raise ModelError(f"{rig.name} has no cards that could be planned for")
    backends = list(groups) or [(card,) for card in rig.cards]
    hands = [card_hand.over(hand) for card_hand in by_card] or [hand] * len(backends)
    files = [own or models for own in own_models] or [models] * len(backends)
    plans = [
        plan_backend(cards, choice, own)
        for cards, choice, own in zip(backends, files, hands, strict=True)
    ]
    first = [(p, own) for p, own in zip(plans, hands, strict=True) if isinstance(p, BackendPlan)]
    good, load_mode, why_load_mode = _for_the_host(rig, first, hand)
    ram = _ram(good, load_mode)
    fixed = [own.cache_ram_mib for _, own in good]
    caches = cache_for_each(rig.ram, _loaded(good), load_mode, fixed)
    servers = tuple(
        _server(rig, p, own, cache, len(backends))
        for (p, own), cache in zip(good, caches, strict=True)
    )
    return RigPlan(
        rig=rig,
        servers=servers,
        refusals=tuple(p for p in plans if isinstance(p, Refusal)),
        load_mode=load_mode,
        why_load_mode=why_load_mode,
        ram=ram,
        problems=tuple(_problems(rig, good, ram, hand, load_mode)),
        notes=tuple(_notes(rig, servers, tight=not _fits(rig, first, "none"))),
    )


Good = list[tuple[BackendPlan, HandSet]]


def _loaded(good: Good) -> list[LlamaServer]:
    return [_llama_server(plan) for plan, _ in good]


def _llama_server(plan: BackendPlan) -> LlamaServer:
    lent = sum(1 for card in plan.cards if card.host)
    own = len(plan.cards) - lent
    return LlamaServer(plan.model, plan.settings, plan.card.generation, own, lent)


def _ram(good: Good, load_mode: str) -> RamNeed:
    return ram_need(_loaded(good), load_mode)


def _fixed_cache(good: Good) -> int:
    """Bytes of the prompt caches that are set by hand."""
    return sum(own.cache_ram_mib or 0 for _, own in good) * MIB


def _fits(rig: Rig, good: Good, load_mode: str) -> bool:
    return _ram(good, load_mode).total + _fixed_cache(good) <= rig.ram


def _for_the_host(rig: Rig, good: Good, hand: HandSet) -> tuple[Good, str, str]:
    """The cards' plans and the load mode, with fewer slots where the host's RAM wants it.

    Where it is not enough for any, they stay as they are.
    """
    for most in range(MOST_SLOTS, 0, -1):
        tried = good if most == MOST_SLOTS else [_with_slots(*one, most) for one in good]
        load_mode, why = _load_mode(rig, tried, hand)
        if _fits(rig, tried, load_mode):
            return tried, load_mode, why
    return good, *_load_mode(rig, good, hand)


def _with_slots(plan: BackendPlan, hand: HandSet, most: int) -> tuple[BackendPlan, HandSet]:
    """A card's plan with so many slots at most; what is set by hand stays."""
    if hand.slots or plan.settings.slots <= most:
        return plan, hand
    fewer = plan_backend(plan.cards, [plan.model], replace(hand, slots=most))
    if isinstance(fewer, Refusal):
        return plan, hand
    why = {
        "quantisation": plan.why["quantisation"],
        "slots": "the host's RAM is not enough for more",
    }
    return replace(fewer, why=fewer.why | why), hand


def _load_mode(rig: Rig, good: Good, hand: HandSet) -> tuple[str, str]:
    if hand.load_mode:
        return hand.load_mode, "set by hand"
    file = max((plan.model.file_bytes for plan, _ in good), default=0)
    if rig.ram - _ram(good, "mmap").total > 1.25 * file:
        return "mmap", (
            f"the whole file ({mib(file)} MiB) stays in the host's page cache: backends restart"
            " from RAM and share one copy of the embeddings"
        )
    if not _fits(rig, good, "none") and _fits(rig, good, "mmap"):
        return "mmap", (
            "a copy of the CPU's weights for each backend would be more than the host holds; starts"
            f" are slower, as a file of {mib(file)} MiB does not stay in it"
        )
    return "none", (
        f"mapping a file of {mib(file)} MiB would push everything else out of {mib(rig.ram)} MiB of"
        " host RAM"
    )


def threads_for(cores: int, servers: int, *, on_cards: bool = True) -> int:
    """CPU threads of each of a rig's llama-servers (docs/adr/0006-threads.md).

    Beside a card few have something to do; where there is none, all have.
    """
    each = cores // max(servers, 1)
    return max(1, min(_MOST_THREADS, each) if on_cards else each)


def _server(rig: Rig, plan: BackendPlan, hand: HandSet, cache: int, backends: int) -> Server:
    # Experts in the host's RAM are the CPU's to multiply.
    computes = plan.card.generation is CPU and not plan.card.host
    computes = computes or plan.settings.n_cpu_moe > 0
    threads = threads_for(rig.cores, backends, on_cards=not computes)
    what = "card" if backends == len(rig.cards) else "backend"
    for_each = f"{backends} {what}{'s' * (backends > 1)}"
    why = {"n_threads": f"{rig.cores} cores for {for_each}; more would spin (ADR 6)"}
    if hand.n_threads is not None:
        threads = hand.n_threads
        why["n_threads"] = "set by hand"
    server = Server(plan=plan, cache_ram_mib=cache, n_threads=threads, why=why)
    why["cache_ram_mib"] = _why_cache(server, hand)
    return server


def _why_cache(server: Server, hand: HandSet) -> str:
    if hand.cache_ram_mib is not None:
        return "set by hand"
    if not server.cache_ram_mib:
        return "the host RAM that is left would hold no conversation of 2000 tokens"
    tokens = server.cached_tokens
    return f"a share of the host RAM that is left; holds {tokens} tokens that lost their slot"


def _problems(rig: Rig, good: Good, ram: RamNeed, hand: HandSet, load_mode: str) -> list[str]:
    found = []
    fixed_cache = _fixed_cache(good)
    over = ram.total + fixed_cache - rig.ram
    if good and over > 0:
        found.append(
            f"the llama-servers need {mib(ram.total + fixed_cache)} MiB of host RAM, {mib(over)}"
            f" MiB more than the {mib(rig.ram)} MiB there are; would fit:"
            f" {_less_ram(rig, good, hand, load_mode)}"
        )
    threads = sum(own.n_threads or 0 for _, own in good)
    if threads > max(rig.cores, len(good)):
        found.append(
            f"n_threads set by hand come to {threads} on {rig.cores} cores; threads that wait for"
            " each other in a loop slow all of them down (ADR 6). Would fit:"
            f" {max(1, rig.cores // len(good))} for each {_kind_of(good)}"
        )
    files = {(p.model.name, p.model.quantisation): p.model.file_bytes for p, _ in good}
    needed = sum(files.values())
    if rig.disk is not None and needed > rig.disk:
        found.append(
            f"the models' files take {mib(needed)} MiB, and {mib(rig.disk)} MiB of disk are free:"
            f" free {mib(needed - rig.disk)} MiB more, or take a smaller quantisation or model"
        )
    return found


def _less_ram(rig: Rig, good: Good, hand: HandSet, load_mode: str) -> str:
    """What the host's RAM would be enough for, nearest first."""
    ways = []
    left = rig.ram - _ram(good, load_mode).total
    if left >= 0:
        ways.append(f"cache_ram_mib {left // MIB // len(good)} for each {_kind_of(good)}")
    if load_mode != "mmap" and _fits(rig, good, "mmap"):
        ways.append("load_mode mmap (one copy of the CPU's weights for all, but slower starts)")
    if slots := _slots_that_fit(rig, good, load_mode):
        ways.append(f"slots {slots}")
    for number in range(len(good) - 1, 0, -1):
        fewer, mode, _ = _for_the_host(rig, good[:number], hand)
        if _fits(rig, fewer, mode):
            ways.append(f"{number} of the {len(good)} {_kind_of(good)}s")
            break
    ways.append(f"{_gigabytes_that_fit(rig, good, hand)} GB of host RAM")
    return "; ".join(ways)


def _kind_of(good: Good) -> str:
    """What each of a rig's backends is of, in a word."""
    return "card" if all(len(plan.cards) == 1 for plan, _ in good) else "backend"


def _gigabytes_that_fit(rig: Rig, good: Good, hand: HandSet) -> int:
    """What a host must be sold with, in steps of 2 GB."""

    def enough(gigabytes: int) -> bool:
        larger = replace(rig, ram=nominal_ram(gigabytes))
        planned, load_mode, _ = _for_the_host(larger, good, hand)
        return _fits(larger, planned, load_mode)

    return next(gigabytes for gigabytes in count(2, 2) if enough(gigabytes))


def _slots_that_fit(rig: Rig, good: Good, load_mode: str) -> int | None:
    """The most slots that would do where more are set by hand, None where none would."""
    most = max(own.slots or 0 for _, own in good)
    for slots in range(most - 1, 0, -1):
        fewer = [
            (replace(plan, settings=_at_most(plan.settings, slots)), own) for plan, own in good
        ]
        if _fits(rig, fewer, load_mode):
            return slots
    return None


def _at_most(settings: Settings, slots: int) -> Settings:
    return replace(settings, slots=min(settings.slots, slots))


def _notes(rig: Rig, servers: Sequence[Server], *, tight: bool) -> list[str]:
    notes = list(rig.assumed)
    measured = (HOPPER, CPU)
    every = [(card, server.plan.settings) for server in servers for card in server.plan.cards]
    # Of lent cards it is their own host's RAM.
    on_trust = {
        card.name: card.generation.host.of(settings.slots)
        for card, settings in every
        if card.generation not in measured and not card.host
    }
    if tight:
        notes += [
            f"{mib(taken)} MiB of host RAM are planned for CUDA with each {name}: an H100's, as"
            " nobody has measured them there; tools/measure_plan.py does"
            for name, taken in sorted(on_trust.items())
        ]
    unmeasured = {card.name for card, _ in every if card.generation is UNKNOWN}
    notes += [
        f"what CUDA takes for itself on {name} is not known: {mib(UNKNOWN.own)} MiB are planned, as"
        " on a Pascal card; watch `nvidia-smi`"
        for name in sorted(unmeasured)
    ]
    files = {server.plan.model.quantisation for server in servers}
    if len(files) > 1:
        smallest = min(servers, key=lambda server: server.plan.model.file_bytes).plan.model
        notes.append(
            "the cards hold different files of the model, and site.yml brings each one its own; for"
            f" {smallest.quantisation} on all set model_quantisation, and plan with --model"
            f" '{_label(smallest)}'"
        )
    notes += _of_links(servers)
    if any(server.plan.settings.n_cpu_moe for server in servers):
        notes.append(
            f"the host's memory is taken to give {HOST_BANDWIDTH / 1e9:.1f} GB/s, as one module of"
            " DDR3-1600; backends that answer at once share it"
        )
    if any(server.plan.settings.n_cpu_moe for server in servers):
        notes.append("site.yml deploys all of a model on cards: n_cpu_moe is planned here only")
    return notes


def _label(model: Model) -> str:
    size = next((key for key, shape in SHAPES.items() if shape.name == model.name), model.name)
    return f"{size} {model.quantisation}"


def _of_links(servers: Sequence[Server]) -> list[str]:
    """How long a model takes over slow links; a group's cards load one after the other."""
    own = [(server.plan.model, _own_shares(server)) for server in servers]
    slow = [one for one in own if one[1] and 0 < one[1][0].card.link <= _SLOW_LINK]
    if not slow:
        return []
    model, shares = slow[0]
    link = shares[0].card.link
    seconds = sum(share.need.weights / (share.card.link or link) for share in shares)
    over = f"{link / 1e9:.2f} GB/s"
    if len(shares) == 1:
        note = f"over a link of {over} a card loads its model in {seconds:.0f} s; tokens and"
        return [f"{note} prompts hardly notice it"]
    crossing = 4 * model.n_embd * (len(shares) - 1) / link * 1000
    note = f"over links of {over} the cards of a group load their layers in {seconds:.0f} s, in"
    return [f"{note} turn; a token crosses from card to card in {crossing:.1f} ms"]


def _own_shares(server: Server) -> tuple[Share, ...]:
    """What is on the rig's own cards."""
    return tuple(share for share in server.plan.shares if not share.card.host)
