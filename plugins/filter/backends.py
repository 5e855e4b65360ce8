"""Filters for the llama-servers of a rig: what follows from its cards, its models and its RAM.

cards | backend_files(model_file)                       each one's GGUF file
cards | backend_names(model_file, name)                 the name of each one's model in the API
cards | backend_kv_types(model_file, tuned, kv_type)    each one's file and its KV cache's type
kv_types | cached_tokens(cards, asked, cache_ram_mib)   tokens that each one's prompt cache holds
files | backend_sizes(known, found)                     MiB of each one's file
sizes | load_timeouts_s(cards, mib_s)                   seconds to a token, in each one's turn
timeouts | start_timeout_s(at_a_time)                   seconds to a token, from any one's start
sizes | memory_limits_mib(cards, defaults, host_mib)    MiB of host RAM that each may have

`cards` is llama_server_gpus: a mapping for each card, in the order of the backends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Card = Mapping[str, Any]
Cards = Sequence[Card]

MIB = 2**20
#: At most what the proxy takes for HEARTCODE_HOST_CACHE_TOKENS.
MOST_TOKENS = 100_000_000
#: For CUDA, allocations and the first token, seconds.
FIRST_TOKEN_S = 300
#: For what comes before the first turn, seconds.
BEFORE_TURNS_S = 120
#: From so many layers on a model is taken to lie on its card.
ALL_LAYERS = 33
#: With these load modes what lies on the card is not in host RAM as well.
MODES_WITHOUT_COPY = ("none", "dio")
#: MiB of the host that are nobody's share, and MiB that no backend may take.
SYSTEM_MIB, LEFT_MIB = 1024, 512
#: MiB of a llama-server beside weights, KV and prompts, and of its reserve.
PROCESS_MIB, RESERVE_MIB = 256, 256


def _stem(file: str) -> str:
    return file.removesuffix(".gguf")


def backend_files(cards: Cards, model_file: str) -> list[str]:
    """Return the name of each backend's file: its card's own, or that of the rig."""
    return [card.get("model_file", model_file) for card in cards]


def backend_names(cards: Cards, model_file: str, name: str) -> list[str]:
    """Return the name of each backend's model in the API.

    `name`, if it is not the file's own, was set and counts for all files; else each has its own.
    """
    is_set = name != _stem(model_file)
    return [
        card.get("model_name", name if is_set else _stem(file))
        for card, file in zip(cards, backend_files(cards, model_file), strict=True)
    ]


def backend_kv_types(
    cards: Cards, model_file: str, tuned: Mapping[str, Mapping[str, Any]], kv_type: str
) -> list[list[str]]:
    """Return each backend's file and the type of its KV cache, on which depends what a token takes.

    `tuned` is what playbooks/tune.yml has found, by UUID; what a card's entry says goes before it.
    """
    found = []
    for card, file in zip(cards, backend_files(cards, model_file), strict=True):
        settings = tuned.get(card["uuid"], {}).get("settings", {})
        found.append([file, card.get("kv_type", settings.get("kv_type", kv_type))])
    return found


def cached_tokens(
    kv_types: Sequence[Sequence[str]],
    cards: Cards,
    asked: Sequence[Mapping[str, Any]],
    cache_ram_mib: float,
) -> list[int]:
    """Return how many tokens each backend's --cache-ram holds; 0 where it cannot be told.

    `asked` are the results of asking for each file and type (`item`) how many bytes a token takes
    (`stdout`).
    """
    bytes_of = {tuple(one["item"]): int(one.get("stdout") or 0) for one in asked}
    found = []
    for kind, card in zip(kv_types, cards, strict=True):
        each = bytes_of[tuple(kind)]
        room = int(card.get("cache_ram_mib", cache_ram_mib)) * MIB
        found.append(min(room // each, MOST_TOKENS) if each > 0 else 0)
    return found


def backend_sizes(
    files: Sequence[str], known: Mapping[str, int], found: Sequence[Mapping[str, Any]]
) -> list[int]:
    """Return the MiB of each backend's file, 0 for one that is not there.

    `known` are the bytes of those that the role model brings; `found` the results of looking on the
    rig (`item`, `stat`).
    """
    there = {one["item"]: one["stat"].get("size", 0) for one in found}
    return [math.ceil((known.get(file) or there[file]) / MIB) for file in files]


def load_timeouts_s(sizes: Sequence[int], cards: Cards, mib_s: float) -> list[int]:
    """Return in how many seconds each backend has a token once its turn has begun."""
    return [
        FIRST_TOKEN_S + math.ceil(size / float(card.get("load_mib_s", mib_s)))
        for size, card in zip(sizes, cards, strict=True)
    ]


def start_timeout_s(timeouts: Sequence[int], at_a_time: int) -> int:
    """Return the seconds from a start to the token: all others may take their turns before."""
    return BEFORE_TURNS_S + sum(timeouts) // int(at_a_time) + max(timeouts)


def memory_limits_mib(
    sizes: Sequence[int], cards: Cards, defaults: Mapping[str, Any], host_mib: int
) -> list[int]:
    """Return how many MiB of host RAM each llama-server may have.

    Its share of the host's, or what it needs with a reserve if that is more (docs/adr/0015). One
    that is not offloaded has weights and KV (1/8 MiB a token for an 8B in f16) in host RAM, and so
    have mmap and mlock the file; an offloaded one has the embeddings (6 % of an 8B, a quarter of a
    1B). `defaults` are the role's values for what a card's entry does not say: n_gpu_layers, n_ctx,
    slots, cache_ram_mib, memory_max_mib; and load_mode, which is the same for all.
    """
    share = (int(host_mib) - SYSTEM_MIB) // len(cards)
    limits = []
    for size, card in zip(sizes, cards, strict=True):
        own = {
            name: int(card.get(name, defaults[name])) for name in defaults.keys() - {"load_mode"}
        }
        is_offloaded = own["n_gpu_layers"] >= ALL_LAYERS
        is_on_the_card = is_offloaded and defaults["load_mode"] in MODES_WITHOUT_COPY
        weights = size // 4 if is_on_the_card else size
        kv = 0 if is_offloaded else own["n_ctx"] * own["slots"] // 8
        need = PROCESS_MIB + weights + own["cache_ram_mib"] + kv
        computed = min(max(share, need + need // 4 + RESERVE_MIB), int(host_mib) - LEFT_MIB)
        limits.append(own["memory_max_mib"] if own["memory_max_mib"] > 0 else computed)
    return limits


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "backend_files": backend_files,
            "backend_names": backend_names,
            "backend_kv_types": backend_kv_types,
            "cached_tokens": cached_tokens,
            "backend_sizes": backend_sizes,
            "load_timeouts_s": load_timeouts_s,
            "start_timeout_s": start_timeout_s,
            "memory_limits_mib": memory_limits_mib,
        }
