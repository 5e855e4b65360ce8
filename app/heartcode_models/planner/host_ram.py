"""How much host RAM a rig's llama-servers take, and what is left for cached prompts.

What a llama-server loads and computes is from the source; the reserves for the system, HeartCode
and CUDA are estimates on the safe side, to be corrected by what a rig shows (`systemd-cgtop`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heartcode_models.gguf.kv_cache import kv_bytes_per_token
from heartcode_models.gguf.model import Model
from heartcode_models.planner.settings import Settings
from heartcode_models.planner.vram import first_gpu_layer
from heartcode_models.units import MIB

#: Debian with ssh and journald.
SYSTEM = 400 * MIB
#: The proxy, the exporter and the node exporter: 87 MiB (PSS) idle on a virtual rig, more with
#: streams.
HEARTCODE = 250 * MIB
#: Programs and libraries (CUDA, cuBLAS, llama.cpp's kernels), once for all llama-servers.
LIBRARIES = 250 * MIB
#: One llama-server's own: vocabulary, threads, CUDA's host side, its buffers to load through
#: (4 × 1 MiB: ``load_all_data``, src/llama-model-loader.cpp).
PROCESS = 160 * MIB
#: Part of what is left that cached prompts may take; the rest caches files.
CACHE_SHARE = 0.8
#: llama-server's own limit for --cache-ram.
LARGEST_CACHE = 8192 * MIB
#: A cache below this holds no conversation of 2000 tokens.
SMALLEST_CACHE = 128 * MIB


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


def host_weights(model: Model, n_gpu_layers: int) -> int:
    """Bytes of the weights that stay with the CPU: embeddings and the layers not offloaded.

    An output that is the embeddings is no second copy there, as on a card it is
    (``TENSOR_DUPLICATED``, ``llama_model_loader::create_tensor``, src/llama-model-loader.cpp).
    """
    first = first_gpu_layer(model, n_gpu_layers)
    output = model.output_bytes - model.output_copy_bytes if first > model.n_layers else 0
    return model.embedding_bytes + output + sum(model.layer_bytes[:first])


def process_ram(model: Model, settings: Settings) -> int:
    """Bytes that one llama-server takes beside its weights.

    What it gives to and gets from the card lies in host memory too: embeddings and mask of a
    ubatch, logits of each slot (``output_reserve``, src/llama-context.cpp). KV of layers that are
    not offloaded lies here.
    """
    tokens = settings.computed_together
    inputs = tokens * (4 * model.n_embd + 2 * settings.ctx_per_slot)
    logits = 2 * 4 * settings.slots * model.n_vocab
    first = first_gpu_layer(model, settings.n_gpu_layers)
    all_kv = kv_bytes_per_token(model, settings.kv_type)
    kv = all_kv - kv_bytes_per_token(model, settings.kv_type, first)
    return PROCESS + inputs + logits + kv * settings.ctx_per_slot * settings.slots


def ram_need(servers: Sequence[tuple[Model, Settings]], load_mode: str) -> RamNeed:
    """Host RAM of a rig's llama-servers.

    With load mode none each has its own copy of the weights that stay with the CPU; with mmap those
    of one file are one in the page cache.
    """
    copies = [(model, host_weights(model, settings.n_gpu_layers)) for model, settings in servers]
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
        processes=private + sum(process_ram(model, settings) for model, settings in servers),
    )


def server_ram(model: Model, settings: Settings, load_mode: str) -> int:
    """Bytes of host RAM that one llama-server may take, cached prompts not counted.

    Libraries are one in memory for all, and a file that is mapped is in the page cache; both are
    put to the account of whoever reads them first.
    """
    mapped = load_mode == "mmap"
    weights = model.file_bytes if mapped else host_weights(model, settings.n_gpu_layers)
    return LIBRARIES + weights + process_ram(model, settings)


def cache_for_each(
    ram: int,
    servers: Sequence[tuple[Model, Settings]],
    load_mode: str,
    fixed: Sequence[int | None],
) -> list[int]:
    """MiB of --cache-ram for each of a rig's llama-servers.

    What `servers` leave of the host's RAM is shared among those whose value is not fixed; where
    they map their file, it keeps its place in the page cache.

    Args:
        ram: Bytes of the host's RAM.
        servers: Each one's model and settings.
        load_mode: Of all of them.
        fixed: MiB that are set by hand, None where they are not.
    """
    left = ram - ram_need(servers, load_mode).total
    if load_mode == "mmap":
        left -= max((model.file_bytes for model, _ in servers), default=0)
    left -= sum(own or 0 for own in fixed) * MIB
    share = cache_share(left, sum(own is None for own in fixed))
    return [share if own is None else own for own in fixed]


def cache_share(left: int, servers: int) -> int:
    """MiB of --cache-ram for each of `servers`, when `left` bytes of host RAM are not needed."""
    each = min(int(left * CACHE_SHARE) // max(servers, 1), LARGEST_CACHE)
    return each // (32 * MIB) * 32 if each >= SMALLEST_CACHE else 0
