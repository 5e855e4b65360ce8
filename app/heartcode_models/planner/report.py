"""A plan as a table with its reasons, as JSON and as inventory variables."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from heartcode_models.planner.choose import Refusal
from heartcode_models.planner.rig_plan import RigPlan, Server, tokens_per_second
from heartcode_models.planner.settings import ALL_LAYERS
from heartcode_models.planner.vram import usable
from heartcode_models.units import MIB, mib

COLUMNS = (
    "RIG", "CARDS", "MODEL", "CONTEXT", "KV", "BATCH", "LAYERS", "THREADS", "CACHE-RAM",
    "VRAM MiB", "TOKENS/S",
)  # fmt: skip

#: The choices in the order of their reasons.
_ORDER = (
    "quantisation", "n_ctx", "slots", "kv_type", "n_batch", "n_ubatch", "n_gpu_layers",
    "cache_ram_mib", "n_threads",
)  # fmt: skip

_T = TypeVar("_T", Server, Refusal)

_FOOTNOTES = """\
CONTEXT: slots x tokens of each. BATCH: batch/ubatch. CACHE-RAM: MiB of host RAM for each card.
VRAM: predicted, of what can be planned for. TOKENS/S: at most, for one answer."""


def table(plans: Sequence[RigPlan]) -> str:
    """One line for each kind of card of each rig, then the reasons of each rig."""
    rows = [COLUMNS, *(row for plan in plans for row in _rows(plan))]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", _FOOTNOTES, *(line for plan in plans for line in _remarks(plan))])


def _rows(plan: RigPlan) -> Iterator[tuple[str, ...]]:
    for server, count in _kinds(plan.servers):
        settings, need = server.plan.settings, server.plan.need
        ceiling = tokens_per_second(server.plan.card, server.plan)
        yield (
            plan.rig.name,
            f"{count} x {server.plan.card.name}",
            server.plan.model.quantisation,
            f"{settings.slots} x {settings.n_ctx}",
            settings.kv_type,
            f"{settings.n_batch}/{settings.n_ubatch}",
            str(settings.n_gpu_layers),
            str(server.n_threads),
            str(server.cache_ram_mib),
            f"{mib(need.total)}/{usable(server.plan.card.vram) // MIB}",
            f"{ceiling:.0f}" if ceiling else "?",
        )
    for refusal, count in _kinds(plan.refusals):
        nothing = ("-",) * (len(COLUMNS) - 3)
        yield (plan.rig.name, f"{count} x {refusal.card.name}", "nothing fits", *nothing)


def _kind(item: Server | Refusal) -> tuple[Any, ...]:
    if isinstance(item, Server):
        settings = (item.plan.model, item.plan.settings, item.cache_ram_mib, item.n_threads)
        return (item.plan.card.name, item.plan.card.vram, *settings)
    return (item.card.name, item.card.vram, item.reason)


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
    for refusal, _ in _kinds(plan.refusals):
        yield f"  {refusal.card.name}: {refusal.reason}"
        yield "    would fit: " + ("; ".join(refusal.would_fit) or "nothing that is known here")
    for problem in plan.problems:
        yield f"  PROBLEM: {problem}"
    for note in plan.notes:
        yield f"  note: {note}"


def _reasons(servers: Sequence[Server]) -> Iterator[str]:
    """A line for each choice and reason; which cards it is for, where they differ."""
    cards: dict[str, list[int]] = {}
    for number, server in enumerate(servers):
        values = values_of(server)
        for name, why in (server.plan.why | server.why).items():
            cards.setdefault(f"{name} {values[name]}: {why}", []).append(number)
    for line, numbers in sorted(cards.items(), key=lambda item: _ORDER.index(item[0].split()[0])):
        some = "" if len(numbers) == len(servers) else f"card {', '.join(map(str, numbers))}: "
        yield f"  {some}{line}"


def _host(plan: RigPlan) -> str:
    return (
        f"{mib(plan.ram.total)} of {mib(plan.rig.ram)} MiB of host RAM before cached prompts,"
        f" {plan.rig.cores} cores"
    )


def values_of(server: Server) -> dict[str, Any]:
    """All that is decided for a card, by the names of the inventory."""
    return {
        "quantisation": server.plan.model.quantisation,
        **asdict(server.plan.settings),
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
        "cards": [_card_data(server) for server in plan.servers],
        "refusals": [
            {
                "card": r.card.name,
                "uuid": r.card.uuid,
                "reason": r.reason,
                "would_fit": list(r.would_fit),
            }
            for r in plan.refusals
        ],
        "problems": list(plan.problems),
        "notes": list(plan.notes),
    }


def _card_data(server: Server) -> dict[str, Any]:
    plan = server.plan
    ceiling = tokens_per_second(plan.card, plan)
    return {
        "card": plan.card.name,
        "uuid": plan.card.uuid,
        "model": plan.model.name,
        "file_mib": mib(plan.model.file_bytes),
        **values_of(server),
        "vram_mib": {
            **{name: mib(size) for name, size in asdict(plan.need).items()},
            "total": mib(plan.need.total),
            "usable": usable(plan.card.vram) // MIB,
        },
        "tokens_per_second_at_most": round(ceiling, 1) if ceiling else None,
        "why": plan.why | server.why,
    }


def inventory(plan: RigPlan) -> str:
    """A rig's variables for the inventory, as YAML."""
    lines = [
        f"{plan.rig.name}:",
        f"  llama_server_load_mode: {plan.load_mode}",
        "  llama_server_gpus:",
    ]
    for number, server in enumerate(plan.servers):
        uuid = server.plan.card.uuid or f"GPU-...  # card {number}: nvidia-smi -L"
        lines.append(f"    # {server.plan.card.name} with {server.plan.model.quantisation}")
        lines.append(f"    - uuid: {uuid}")
        values = values_of(server)
        if server.plan.settings.n_gpu_layers >= server.plan.model.all_layers:
            values["n_gpu_layers"] = ALL_LAYERS
        lines += [f"      {name}: {values[name]}" for name in values if name != "quantisation"]
    lines += [f"    # {r.card.uuid or r.card.name}: {r.reason}" for r in plan.refusals]
    return "\n".join(lines)
