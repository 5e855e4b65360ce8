"""A plan as a table with its reasons, as JSON and as inventory variables."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import GIGABIT
from heartcode_models.planner.choose import Refusal, named
from heartcode_models.planner.layer_split import Cards
from heartcode_models.planner.rig_plan import RigPlan, Server
from heartcode_models.planner.settings import ALL_LAYERS
from heartcode_models.planner.speed import tokens_per_second
from heartcode_models.planner.vram import usable
from heartcode_models.units import MIB, mib

COLUMNS = (
    "RIG", "CARDS", "MODEL", "CONTEXT", "KV", "BATCH", "LAYERS", "THREADS", "CACHE-RAM",
    "VRAM MiB", "TOKENS/S",
)  # fmt: skip

#: The choices in the order of their reasons.
_ORDER = (
    "quantisation", "n_ctx", "slots", "kv_type", "n_batch", "n_ubatch", "n_gpu_layers",
    "n_cpu_moe", "cache_ram_mib", "n_threads",
)  # fmt: skip

_T = TypeVar("_T", Server, Refusal)

_FOOTNOTES = """\
CONTEXT: slots x tokens of each. BATCH: batch/ubatch. CACHE-RAM: MiB of host RAM for each backend.
VRAM: predicted, of what can be planned for. TOKENS/S: at most, for one answer."""

_GROUPING_COLUMNS = (
    "RIG", "CARDS", "MODEL", "CONTEXT", "CONVERSATIONS", "TOKENS/S", "CARDS LEFT",
)  # fmt: skip
_GROUPING_FOOTNOTES = """\
CONTEXT: slots x tokens of each backend. CONVERSATIONS: at a time, of the whole rig. TOKENS/S: at
most, for one answer; --model and --groups show a line's plan."""


def table(plans: Sequence[RigPlan]) -> str:
    """One line for each kind of card of each rig, then the reasons of each rig."""
    lines = _aligned([COLUMNS, *(row for plan in plans for row in _rows(plan))])
    return "\n".join([*lines, "", _FOOTNOTES, *(line for plan in plans for line in _remarks(plan))])


def groupings(plans: Iterable[RigPlan]) -> str:
    """One line for each way of sharing a rig's cards out."""
    rows = [_GROUPING_COLUMNS, *map(_grouping, plans)]
    return "\n".join([*_aligned(rows), "", _GROUPING_FOOTNOTES])


def _grouping(plan: RigPlan) -> tuple[str, ...]:
    first = plan.servers[0].plan
    ceiling = tokens_per_second(first)
    in_use = sum(len(server.plan.cards) for server in plan.servers)
    return (
        plan.rig.name,
        _count(len(plan.servers), first.cards),
        f"{first.model.name} {first.model.quantisation}",
        f"{first.settings.slots} x {first.settings.n_ctx}",
        str(sum(server.plan.settings.slots for server in plan.servers)),
        f"{ceiling:.0f}" if ceiling else "?",
        str(len(plan.rig.cards) - in_use),
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _count(count: int, cards: Cards) -> str:
    """``6 x P106-100``, and of groups ``2 x 3 P106-100``."""
    mixed = len({(card.name, card.host) for card in cards}) > 1
    return f"{count} x ({named(cards)})" if mixed else f"{count} x {named(cards)}"


def _rows(plan: RigPlan) -> Iterator[tuple[str, ...]]:
    for server, count in _kinds(plan.servers):
        settings, need = server.plan.settings, server.plan.need
        ceiling = tokens_per_second(server.plan, plan.rig.network)
        yield (
            plan.rig.name,
            _count(count, server.plan.cards),
            server.plan.model.quantisation,
            f"{settings.slots} x {settings.n_ctx}",
            settings.kv_type,
            f"{settings.n_batch}/{settings.n_ubatch}",
            str(settings.n_gpu_layers),
            str(server.n_threads),
            str(server.cache_ram_mib),
            f"{mib(need.total)}/{_usable(server.plan.cards)}",
            f"{ceiling:.0f}" if ceiling else "?",
        )
    for refusal, count in _kinds(plan.refusals):
        nothing = ("-",) * (len(COLUMNS) - 3)
        yield (plan.rig.name, _count(count, refusal.cards), "nothing fits", *nothing)


def _kind(item: Server | Refusal) -> tuple[Any, ...]:
    if isinstance(item, Server):
        settings = (item.plan.model, item.plan.settings, item.cache_ram_mib, item.n_threads)
        return (*_alike(item.plan.cards), *settings)
    return (*_alike(item.cards), item.reason)


def _alike(cards: Cards) -> tuple[Any, ...]:
    return tuple((card.name, card.vram) for card in cards)


def _usable(cards: Cards) -> int:
    """MiB of them that can be planned for."""
    return sum(usable(card.vram) for card in cards) // MIB


def _kinds(items: Iterable[_T]) -> list[tuple[_T, int]]:
    """Those that differ, each with how many there are of it."""
    kinds: dict[tuple[Any, ...], tuple[_T, int]] = {}
    for item in items:
        first, count = kinds.get(_kind(item), (item, 0))
        kinds[_kind(item)] = (first, count + 1)
    return list(kinds.values())


def _remarks(plan: RigPlan) -> Iterator[str]:
    yield ""
    yield f"{plan.rig.name}: {_host(plan)}"
    if plan.servers:
        yield f"  load_mode {plan.load_mode}: {plan.why_load_mode}"
    yield from _reasons(plan.servers)
    for server, _ in _kinds(plan.servers):
        yield from _shared_out(server, plan.rig.name)
    for refusal, _ in _kinds(plan.refusals):
        yield f"  {named(refusal.cards)}: {refusal.reason}"
        yield "    would fit: " + ("; ".join(refusal.would_fit) or "nothing that is known here")
    for problem in plan.problems:
        yield f"  PROBLEM: {problem}"
    for note in plan.notes:
        yield f"  note: {note}"


def _shared_out(server: Server, rig: str) -> Iterator[str]:
    """How a model lies on the cards of a group, a line for each."""
    plan = server.plan
    if len(plan.shares) == 1:
        return
    numbers = ",".join(map(str, plan.tensor_split))
    what = f"{plan.model.name} {plan.model.quantisation} on {named(plan.cards)}"
    yield f"  {what}: --split-mode layer --tensor-split {numbers}"
    yield from (f"    {line}" for line in _aligned(list(_share_rows(server, rig))))


def _share_rows(server: Server, rig: str) -> Iterator[tuple[str, ...]]:
    plan = server.plan
    # Where all are in one host nobody asks for its name.
    is_lent = any(share.card.host for share in plan.shares)
    yield (
        *("HOST",) * is_lent,
        "CARD",
        "LAYERS",
        "WEIGHTS",
        "KV",
        "COMPUTE",
        "SCRATCH",
        "CUDA",
        "MiB OF",
    )
    for share in plan.shares:
        need, layers = share.need, share.layers
        has_output = plan.model.n_layers in layers
        held = layers[:-1] if has_output else layers
        yield (
            *(share.card.host or rig,) * is_lent,
            share.card.name,
            " + ".join(filter(None, (_first_and_last(held), "output" * has_output))),
            *(
                str(mib(size))
                for size in (need.weights, need.kv, need.compute, need.pool, need.runtime)
            ),
            f"{mib(need.total)}/{usable(share.card.vram) // MIB}",
        )


def _first_and_last(layers: range) -> str:
    """``0-13``, and of one layer its number."""
    return "-".join(map(str, dict.fromkeys((layers[0], layers[-1])))) if layers else ""


def _reasons(servers: Sequence[Server]) -> Iterator[str]:
    """A line for each choice and reason; which cards it is for, where they differ."""
    cards: dict[str, list[int]] = {}
    for number, server in enumerate(servers):
        values = values_of(server)
        for name, why in (server.plan.why | server.why).items():
            cards.setdefault(f"{name} {values[name]}: {why}", []).append(number)
    for line, numbers in sorted(cards.items(), key=lambda item: _ORDER.index(item[0].split()[0])):
        kind = "backend" if any(len(server.plan.cards) > 1 for server in servers) else "card"
        some = "" if len(numbers) == len(servers) else f"{kind} {', '.join(map(str, numbers))}: "
        yield f"  {some}{line}"


def _host(plan: RigPlan) -> str:
    return (
        f"{mib(plan.ram.total)} of {mib(plan.rig.ram)} MiB of host RAM before cached prompts,"
        f" {plan.rig.cores} cores"
    )


def values_of(server: Server) -> dict[str, Any]:
    """All that is decided for a card, by the names of the inventory."""
    settings = asdict(server.plan.settings)
    if not server.plan.settings.n_cpu_moe:
        del settings["n_cpu_moe"]
    return {
        "quantisation": server.plan.model.quantisation,
        **settings,
        "n_threads": server.n_threads,
        "cache_ram_mib": server.cache_ram_mib,
    }


def as_data(plan: RigPlan) -> dict[str, Any]:
    """A plan as plain data; sizes in MiB. A contract for scripts."""
    return {
        "rig": plan.rig.name,
        "works": plan.works,
        "load_mode": plan.load_mode,
        "why_load_mode": plan.why_load_mode,
        "host_ram_mib": {"needed": mib(plan.ram.total), "present": mib(plan.rig.ram)},
        "cards": [_card_data(server, plan.rig.network) for server in plan.servers],
        "refusals": [
            {
                "card": r.card.name,
                "uuid": r.card.uuid,
                "cards": [card.name for card in r.cards],
                "reason": r.reason,
                "would_fit": list(r.would_fit),
            }
            for r in plan.refusals
        ],
        "problems": list(plan.problems),
        "notes": list(plan.notes),
    }


def _card_data(server: Server, network: int) -> dict[str, Any]:
    plan = server.plan
    ceiling = tokens_per_second(plan, network)
    return {
        "card": plan.card.name,
        "uuid": plan.card.uuid,
        "model": plan.model.name,
        "file_mib": mib(plan.model.file_bytes),
        **values_of(server),
        "vram_mib": {
            **{name: mib(size) for name, size in asdict(plan.need).items()},
            "total": mib(plan.need.total),
            "usable": _usable(plan.cards),
        },
        "tensor_split": list(plan.tensor_split) if len(plan.cards) > 1 else None,
        "shares": [
            {
                "card": share.card.name,
                "uuid": share.card.uuid,
                **({"host": share.card.host} if share.card.host else {}),
                "layers": len(share.layers) - (plan.model.n_layers in share.layers),
                "output": plan.model.n_layers in share.layers,
                "vram_mib": {
                    **{name: mib(size) for name, size in asdict(share.need).items()},
                    "total": mib(share.need.total),
                    "usable": usable(share.card.vram) // MIB,
                },
            }
            for share in plan.shares
        ],
        "tokens_per_second_at_most": round(ceiling, 1) if ceiling else None,
        "why": plan.why | server.why,
    }


def inventory(plan: RigPlan) -> str:
    """A rig's variables for the inventory, as YAML.

    Raises:
        ModelError: it has experts in host RAM, which site.yml does not deploy.
    """
    if any(one.plan.settings.n_cpu_moe for one in plan.servers):
        raise ModelError(
            f"{plan.rig.name}: site.yml deploys all of a model on cards, so there are no variables"
            " for n_cpu_moe; take more cards, or a model that they hold"
        )
    lines = [
        f"{plan.rig.name}:",
        f"  llama_server_load_mode: {plan.load_mode}",
        "  llama_server_gpus:",
    ]
    if plan.rig.helpers:
        names = ", ".join(helper.name for helper in plan.rig.helpers)
        lines.insert(1, f"  llama_server_helpers: [{names}]")
        if plan.rig.network != GIGABIT:
            lines.insert(2, f"  llama_server_network_mib_s: {plan.rig.network // MIB}")
    numbers = itertools.count()
    for server in plan.servers:
        cards = tuple(card for card in server.plan.cards if not card.host)
        uuids = [
            card.uuid or f"GPU-...  # card {number}: nvidia-smi -L"
            for card, number in zip(cards, numbers, strict=False)
        ]
        lines.append(f"    # {named(cards)} with {server.plan.model.quantisation}")
        if len(uuids) == 1:
            lines.append(f"    - uuid: {uuids[0]}")
        else:
            lines += ["    - gpus:", *(f"        - {uuid}" for uuid in uuids)]
        values = values_of(server)
        if server.plan.settings.n_gpu_layers >= server.plan.model.all_layers:
            values["n_gpu_layers"] = ALL_LAYERS
        lines += [f"      {name}: {values[name]}" for name in values if name != "quantisation"]
    lines += [f"    # {r.card.uuid or r.card.name}: {r.reason}" for r in plan.refusals]
    return "\n".join(lines)
