"""How much host RAM a rig's llama-servers take, and what is left for cached prompts.

What a llama-server loads and computes is from the source. What it and CUDA take for themselves was
measured with tools/measure_plan.py (docs/planning.md); the reserves for the system and HeartCode
are estimates on the safe side, to be corrected by what a rig shows (`systemd-cgtop`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import CPU, PASCAL, Generation
from heartcode_models.planner.compute_graph import part_copies
from heartcode_models.planner.kv_of_layers import kv_of
from heartcode_models.planner.settings import Settings
from heartcode_models.planner.vram import VramNeed, compute_buffer, first_gpu_layer
from heartcode_models.units import MIB

#: Debian with ssh and journald.
SYSTEM = 400 * MIB
#: The proxy, the exporter and the node exporter: 87 MiB (PSS) idle on a virtual rig, more with
#: streams.
HEARTCODE = 250 * MIB
#: Programs and libraries (CUDA, cuBLAS, llama.cpp's kernels), once for all llama-servers: 98 MiB
#: were shared by three of them, 113 mapped by the busiest one.
LIBRARIES = 115 * MIB
#: One llama-server's own with one slot, and each further slot's: threads, tasks, samplers. On the
#: CPU it takes 12 MiB beside vocabulary and buffers, 5 for a slot with prompts of 8000 tokens.
PROCESS, EACH_SLOT = 16 * MIB, 5 * MIB
#: Bytes for each token of the vocabulary: 46 MiB for 128256 tokens and 280147 merges, which lie in
#: maps of strings (``llama_vocab::impl``, src/llama-vocab.cpp).
EACH_TOKEN_KNOWN = 400
#: Part of what is left that cached prompts may take; the rest caches files.
CACHE_SHARE = 0.8
#: Part of what Debian and HeartCode leave that models may take where the CPU computes.
CPU_SHARE = 0.85
#: llama-server's own limit for --cache-ram.
LARGEST_CACHE = 8192 * MIB
#: Copies of a matrix while it is sent to another host: what was read of the file
#: (``llama_model_loader::load_all_data``, src/llama-model-loader.cpp) and the message
#: (``serialize_set_tensor``, ggml-rpc.cpp). They are given back when all is loaded.
_SENT_AT_ONCE = 2
#: A cache below this holds no conversation of 2000 tokens.
SMALLEST_CACHE = 128 * MIB


class LlamaServer(NamedTuple):
    """One llama-server: what it loads, how, on what kind of card and on how many.

    Attributes:
        model: What it loads.
        settings: How.
        generation: Of its cards.
        cards: How many of them are in the host itself.
        lent: How many other hosts lend it: what CUDA takes for these it takes there.
    """

    model: Model
    settings: Settings
    generation: Generation = PASCAL
    cards: int = 1
    lent: int = 0


@dataclass(frozen=True, kw_only=True)
class RamNeed:
    """Host RAM of a rig without cached prompts, in bytes."""

    base: int
    shared_weights: int
    processes: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.base + self.shared_weights + self.processes


def host_weights(model: Model, n_gpu_layers: int, n_cpu_moe: int = 0) -> int:
    """Bytes of the weights that stay with the CPU: embeddings, layers not offloaded, experts.

    An output that is the embeddings is no second copy there, as on a card it is
    (``TENSOR_DUPLICATED``, ``llama_model_loader::create_tensor``, src/llama-model-loader.cpp).
    """
    first = first_gpu_layer(model, n_gpu_layers)
    output = model.output_bytes - model.output_copy_bytes if first > model.n_layers else 0
    experts = model.experts_of(range(first, max(n_cpu_moe, first)))
    return model.embedding_bytes + output + sum(model.layer_bytes[:first]) + experts


def host_buffers(model: Model, settings: Settings, cards: int = 1) -> int:
    """Bytes of the pinned buffers through which cards get tokens and give logits.

    For the tokens that are computed together: their embeddings, as much again for those that an
    image would bring (``build_inp_embd``, src/llama-graph.cpp), position and places in the cache,
    and the mask of what each may see (``build_attn_inp_kq_mask``, the same). For each slot a row of
    logits (``output_reserve``, src/llama-context.cpp). On several cards batches overlap, and each
    input is there four times, but for the embeddings that the CPU looks up
    (``ggml_backend_sched_split_graph``, ggml/src/ggml-backend.cpp).
    """
    tokens = settings.computed_together
    copies = part_copies(settings, several=cards > 1)
    # Embeddings that each layer has of its own are scaled, and lie there twice for that.
    looked_up = 4 * (model.n_embd + 2 * model.n_layers * model.n_embd_per_layer)
    inputs = 4 * model.n_embd + 3 * 8 + 2 * settings.ctx_per_slot
    return tokens * (looked_up + copies * inputs) + settings.slots * 4 * model.n_vocab


def own_ram(model: Model, settings: Settings) -> int:
    """Bytes of llama-server's own: its vocabulary, threads, tasks and samplers."""
    return PROCESS + model.n_vocab * EACH_TOKEN_KNOWN + (settings.slots - 1) * EACH_SLOT


def host_kv(model: Model, settings: Settings) -> int:
    """Bytes of the KV cache of layers that are not offloaded."""
    return kv_of(
        model, settings, range(min(first_gpu_layer(model, settings.n_gpu_layers), model.n_layers))
    )


def room_of_the_cpu(ram: int, servers: int) -> int:
    """Bytes of a host's RAM that each of its llama-servers may have where the CPU computes.

    The rest is left to prompts that lose their slot, and to files.
    """
    return int((ram - SYSTEM - HEARTCODE - LIBRARIES) * CPU_SHARE) // max(servers, 1)


def cpu_need(model: Model, settings: Settings) -> VramNeed:
    """What a llama-server takes of the host's RAM where the CPU computes, by what takes it."""
    return VramNeed(
        weights=host_weights(model, 0),
        kv=host_kv(model, settings),
        compute=compute_buffer(model, settings) + host_buffers(model, settings),
        pool=0,
        runtime=own_ram(model, settings),
    )


def process_ram(server: LlamaServer) -> int:
    """Bytes that one llama-server takes beside its weights and the libraries."""
    model, settings, generation, cards, lent = server
    if generation is CPU and not lent:
        need = cpu_need(model, settings)
        return need.total - need.weights
    return (
        own_ram(model, settings)
        + host_buffers(model, settings, cards + lent)
        + host_kv(model, settings)
        # Nobody has measured a process with several cards: as much as of one with each.
        + generation.host.of(settings.slots) * cards
        + (_SENT_AT_ONCE * _largest_sent(model, has_output=not cards) if lent else 0)
    )


def _largest_sent(model: Model, *, has_output: bool) -> int:
    """Bytes of the largest matrix that other hosts hold."""
    return max(model.largest_matrix_bytes, model.output_bytes if has_output else 0)


def lending_ram(model: Model, generation: Generation, cards: int, slots: int) -> int:
    """Bytes of RAM that a host has to have which lends so many cards for `model`.

    CUDA takes there what it would take if the host served itself, as the same kernels run there. A
    message has to be there as a whole before it is taken (``rpc_serve_client``, ggml-rpc.cpp): the
    largest is a matrix.
    """
    cuda = generation.host.of(slots) * cards
    return SYSTEM + HEARTCODE + LIBRARIES + PROCESS + model.largest_matrix_bytes + cuda


def ram_need(servers: Sequence[LlamaServer], load_mode: str) -> RamNeed:
    """Host RAM of a rig's llama-servers.

    With load mode none each has its own copy of the weights that stay with the CPU; with mmap those
    of one file are one in the page cache.
    """
    copies = [(one.model, _weights_of(one)) for one in servers]
    if load_mode == "mmap":
        largest: dict[tuple[str, str], int] = {}
        for model, size in copies:
            key = (model.name, model.quantisation)
            largest[key] = max(size, largest.get(key, 0))
        shared, private = sum(largest.values()), 0
    else:
        shared, private = 0, sum(size for _, size in copies)
    return RamNeed(
        base=SYSTEM + HEARTCODE + LIBRARIES,
        shared_weights=shared,
        processes=private + sum(map(process_ram, servers)),
    )


def _weights_of(server: LlamaServer) -> int:
    return host_weights(server.model, server.settings.n_gpu_layers, server.settings.n_cpu_moe)


def private_ram(server: LlamaServer, load_mode: str) -> int:
    """Bytes that only the end of one llama-server gives back, cached prompts not counted."""
    mapped = load_mode == "mmap"
    return (0 if mapped else _weights_of(server)) + process_ram(server)


def server_ram(server: LlamaServer, load_mode: str) -> int:
    """Bytes of host RAM that one llama-server may take, cached prompts not counted.

    Libraries are one in memory for all, and a file that is mapped is in the page cache; both are
    put to the account of whoever reads them first.
    """
    file = server.model.file_bytes if load_mode == "mmap" else 0
    return LIBRARIES + file + private_ram(server, load_mode)


def cache_for_each(
    ram: int,
    servers: Sequence[LlamaServer],
    load_mode: str,
    fixed: Sequence[int | None],
) -> list[int]:
    """MiB of --cache-ram for each of a rig's llama-servers.

    What `servers` leave of the host's RAM is shared among those whose value is not fixed; where
    they map their file, it keeps its place in the page cache.

    Args:
        ram: Bytes of the host's RAM.
        servers: The llama-servers.
        load_mode: Of all of them.
        fixed: MiB that are set by hand, None where they are not.
    """
    left = ram - ram_need(servers, load_mode).total
    if load_mode == "mmap":
        left -= max((one.model.file_bytes for one in servers), default=0)
    left -= sum(own or 0 for own in fixed) * MIB
    share = cache_share(left, sum(own is None for own in fixed))
    return [share if own is None else own for own in fixed]


def cache_share(left: int, servers: int) -> int:
    """MiB of --cache-ram for each of `servers`, when `left` bytes of host RAM are not needed."""
    each = min(int(left * CACHE_SHARE) // max(servers, 1), LARGEST_CACHE)
    return each // (32 * MIB) * 32 if each >= SMALLEST_CACHE else 0
