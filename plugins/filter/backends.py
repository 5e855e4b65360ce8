"""Filters for the llama-servers of a rig: what follows from its cards, its models and its RAM.

files | backend_sizes(known, found)                     MiB of each one's file
cards | backend_ram(values, shapes, sizes, host_mib)    what each one has of the host's RAM
sizes | load_timeouts_s(cards, mib_s, network_mib_s)    seconds to a token, in each one's turn
timeouts | start_timeout_s(at_a_time, cards)            seconds to a token, from any one's start
files | kept_models(found, directory)                   the path of each one's file
kept | unnamed_models(named, wanted)                    those that nothing names, for host_files
mib | conversations_mib                                 MiB for conversations on a disk of that size

`cards` is rig_backends: all settings of each backend, in their order. What the host's RAM holds is
the planner's to say (``heartcode_models.planner.host_ram``).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.gguf.kv_cache import kv_bytes_per_token
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import GIGABIT, PASCAL, uuids_of
from heartcode_models.planner.host_disk import room_for_conversations
from heartcode_models.planner.host_ram import LlamaServer, cache_for_each, server_ram
from heartcode_models.planner.settings import ALL_LAYERS, Settings, layers_of
from heartcode_models.units import MIB, mib

Card = Mapping[str, Any]
Cards = Sequence[Card]

#: At most what the proxy takes for HEARTCODE_HOST_CACHE_TOKENS.
MOST_TOKENS = 100_000_000
#: For CUDA, allocations and the first token, seconds; and for CUDA on each further card of a group.
FIRST_TOKEN_S, FURTHER_CARD_S = 300, 60
#: For what comes before the first turn, seconds; and for asking after each further card of a group.
BEFORE_TURNS_S, ASKING_S = 120, 20
#: MiB of the host that are nobody's share, and MiB that no backend may take.
SYSTEM_MIB, LEFT_MIB = 1024, 512
#: MiB of a llama-server's reserve.
RESERVE_MIB = 256
#: MiB that a token may take in a KV cache of which nothing is known: an 8B's in f16.
KV_MIB_UNKNOWN = 0.125


def backend_sizes(
    files: Sequence[str], known: Mapping[str, int], found: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Return the MiB of each backend's file, 0 for one that is not there.

    `known` are the bytes of those that the role model brings; `found` the results of looking on the
    rig (`item`, `stat`).
    """
    there = {one["item"]: one["stat"].get("size", 0) for one in found}
    return [math.ceil((known.get(file) or there[file]) / MIB) for file in files]


def kept_models(
    files: Sequence[str], found: Sequence[Mapping[str, Any]], directory: str
) -> list[str]:
    """Return the path under which each backend has its file.

    It has the time of writing in it, in milliseconds: another file of the same name has another
    one. A file that is not there yet, in a dry run, has none.
    """
    written = {
        one["item"]: f"{round(one['stat']['mtime'] * 1000):x}" if one["stat"]["exists"] else "new"
        for one in found
    }
    return [f"{directory}/{written[file]}.{file}" for file in files]


def unnamed_models(
    kept: Sequence[str], named: Sequence[str], wanted: Sequence[str]
) -> list[dict[str, str]]:
    """Return what no line MODEL_PATH=... of any settings names."""
    used = {line.removeprefix("MODEL_PATH=") for line in named}.union(wanted)
    return [{"path": path, "state": "absent"} for path in sorted(set(kept) - used)]


def load_timeouts_s(
    sizes: Sequence[int], cards: Cards, mib_s: float, network_mib_s: float = GIGABIT / MIB
) -> list[int]:
    """Return in how many seconds each backend has a token once its turn has begun.

    A group's cards get their layers one after the other: the whole file at a card's pace, and what
    is for cards that other hosts lend over the network too, as each matrix is read and then sent.
    """
    return [
        FIRST_TOKEN_S
        + FURTHER_CARD_S * (_count(card) - 1)
        + math.ceil(
            size / float(card.get("load_mib_s", mib_s))
            + size * _part_lent(card) / float(network_mib_s)
        )
        for size, card in zip(sizes, cards, strict=True)
    ]


def _part_lent(card: Card) -> float:
    """Part of a backend's layers that is on other hosts' cards, which are its first devices."""
    lent = sum(helper["cards"] for helper in card.get("helpers", []))
    layers = card.get("tensor_split", [])
    return sum(layers[:lent]) / sum(layers) if lent else 0.0


def _count(card: Card) -> int:
    """How many cards a backend has."""
    return len(uuids_of(card["uuid"]))


def start_timeout_s(timeouts: Sequence[int], at_a_time: int, cards: Cards) -> int:
    """Return the seconds from a start to the token: all others may take their turns before."""
    before = BEFORE_TURNS_S + ASKING_S * (max(map(_count, cards)) - 1)
    return before + sum(timeouts) // int(at_a_time) + max(timeouts)


def conversations_mib(disk_mib: int) -> int:
    """Return the MiB for conversations in files on a disk of that size, 0 where it is too small."""
    return room_for_conversations(int(disk_mib) * MIB)


def backend_ram(
    cards: Cards,
    values: Mapping[str, Any],
    shapes: Sequence[Mapping[str, Any]],
    sizes: Sequence[int],
    host_mib: int,
) -> list[dict[str, int]]:
    """Return what each backend has of the host's RAM.

    `cache_ram_mib` is its --cache-ram, the planner's unless it is set; `cached_tokens` what that
    holds, 0 where it cannot be told; `memory_max_mib` its MemoryMax: its share of the host's RAM,
    or what it needs with a reserve if that is more (docs/adr/0015).

    `values` are `memory_max_mib`, which a card's own goes before, and `tuned`, what
    playbooks/tune.yml has found, by UUID; it counts only where nobody has set another value.
    `shapes` are the results of asking for each file (`item`) what the model is (`stdout`), empty
    where that cannot be told; `sizes` are the MiB of each backend's file.
    """
    told = {one["item"]: str(one.get("stdout") or "") for one in shapes}
    own = [{**values, **card, **_tuned(values, card)} for card in cards]
    models = [_model(told.get(one["model_file"], "")) for one in own]
    servers = [
        _server(one, model, size) for one, model, size in zip(own, models, sizes, strict=True)
    ]
    fixed = [
        None if one.get("cache_ram_mib") in (None, "") else int(one["cache_ram_mib"]) for one in own
    ]
    # It is the rig's, the same for all.
    load_mode = own[0]["load_mode"] if own else "none"
    caches = cache_for_each(int(host_mib) * MIB, servers, load_mode, fixed)
    return [
        {
            "cache_ram_mib": cache,
            "cached_tokens": _tokens(cache, model, server.settings),
            "memory_max_mib": int(one["memory_max_mib"])
            or _limit_mib(mib(server_ram(server, load_mode)) + cache, host_mib, len(cards)),
        }
        for one, model, server, cache in zip(own, models, servers, caches, strict=True)
    ]


def _model(told: str) -> Model | None:
    return Model.from_data(json.loads(told)) if told else None


def _tuned(values: Mapping[str, Any], card: Card) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = values["tuned"].get(card["uuid"], {}).get("settings", {})
    return settings


def _server(values: Mapping[str, Any], model: Model | None, size_mib: int) -> LlamaServer:
    """A backend's model and settings; of a model that is not known what its size tells."""
    used = model or _stand_in(size_mib)
    whole = values["n_gpu_layers"] == ALL_LAYERS or model is not None
    settings = Settings(
        n_ctx=int(values["n_ctx"]),
        slots=int(values["slots"]),
        kv_type=str(values["kv_type"]),
        n_batch=int(values["n_batch"]),
        n_ubatch=int(values["n_ubatch"]),
        # Of a number of layers nothing follows where nobody knows how many there are.
        n_gpu_layers=layers_of(values["n_gpu_layers"], used) if whole else 0,
    )
    # What CUDA takes is taken to be the same for every card (docs/adr/0015); for cards that other
    # hosts lend it takes it there.
    lent = sum(helper["cards"] for helper in values.get("helpers", []))
    devices = len(values.get("tensor_split", [1]))
    return LlamaServer(used, settings, PASCAL, devices - lent, lent)


def _stand_in(size_mib: int) -> Model:
    """A model of which only the file's size is known.

    A quarter of it is embeddings, as of a 1B; vocabulary and width are an 8B's.
    """
    size = size_mib * MIB
    values_of_a_token = int(KV_MIB_UNKNOWN * MIB / 2 / 2)  # K and V, 2 bytes each
    return Model(
        name="",
        quantisation="",
        n_layers=1,
        n_embd=4096,
        n_ff=0,
        n_heads=1,
        head_k=values_of_a_token,
        head_v=values_of_a_token,
        kv_heads=(1,),
        n_vocab=128_256,
        n_ctx_train=0,
        layer_bytes=(size - size // 4,),
        embedding_bytes=size // 4,
        output_bytes=0,
        file_bytes=size,
    )


def _tokens(cache_mib: int, model: Model | None, settings: Settings) -> int:
    each = kv_bytes_per_token(model, settings.kv_type) if model else 0
    return min(cache_mib * MIB // each, MOST_TOKENS) if each else 0


def _limit_mib(need: int, host_mib: int, backends: int) -> int:
    share = (int(host_mib) - SYSTEM_MIB) // backends
    return min(max(share, need + need // 4 + RESERVE_MIB), int(host_mib) - LEFT_MIB)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "backend_sizes": backend_sizes,
            "load_timeouts_s": load_timeouts_s,
            "kept_models": kept_models,
            "unnamed_models": unnamed_models,
            "start_timeout_s": start_timeout_s,
            "backend_ram": backend_ram,
            "conversations_mib": conversations_mib,
        }
