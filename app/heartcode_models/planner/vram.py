"""How much VRAM one llama-server takes.

Every formula names its place in the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098). What the
buffer for computing takes is rehearsed (`graph_allocator`), the rest is added up. Where the source
leaves room (which kernel a card gets), the larger value is taken: a plan may waste some MiB, but
must not run out of them.
"""

from dataclasses import dataclass

from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import PASCAL, Generation
from heartcode_models.planner.compute_graph import WHOLE, Part, graph_buffer
from heartcode_models.planner.kv_of_layers import kv_of, kv_of_layer
from heartcode_models.planner.settings import Settings
from heartcode_models.units import MIB

_F32, _F16, _I32 = 4, 2, 4

#: Part of a card that is never planned for: rounding of each allocation to 2 MiB, kernels that are
#: loaded late. The alert HeartCodeVramFull rings where less than this is free.
MARGIN = 0.01
#: In steps of this the pool grows: what NVIDIA's driver recommends
#: (``CU_MEM_ALLOC_GRANULARITY_RECOMMENDED``; ggml-cuda.cu asks for it).
_POOL_STEP = 2 * MIB
#: Blocks that share a row of flash attention's tile kernel: as many as a multiprocessor runs at
#: once, 2 for these tiles (``ggml_cuda_fattn_tile_get_config_nvidia_fp32``, fattn-tile.cuh). More
#: are taken only where less of the card would be idle then, and prompts have tiles enough.
_BLOCKS_OF_A_ROW = 2
#: From so many tokens on the card multiplies for layers that are not on it
#: (``op_offload_min_batch_size``, ggml-cuda.cu).
_WORTH_SENDING = 32


@dataclass(frozen=True, kw_only=True)
class VramNeed:
    """VRAM of one llama-server, by what takes it, in bytes."""

    weights: int
    kv: int
    compute: int
    pool: int
    runtime: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.compute + self.pool + self.runtime

    def __add__(self, other: "VramNeed") -> "VramNeed":
        """What two cards take together."""
        return VramNeed(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__annotations__}
        )


def first_gpu_layer(model: Model, n_gpu_layers: int) -> int:
    """Number of the first layer on the card; `model.n_layers` stands for the output.

    Source: ``i_gpu_start`` in ``llama_model::load_tensors``, src/llama-model.cpp.
    """
    return max(model.all_layers - n_gpu_layers, 0)


def layers_on_cards(model: Model, n_gpu_layers: int) -> range:
    """Numbers of the layers that are not with the CPU; `model.n_layers` stands for the output."""
    return range(first_gpu_layer(model, n_gpu_layers), model.all_layers)


def weights_of(model: Model, layers: range, n_cpu_moe: int = 0) -> int:
    """Bytes of the weights of `layers` on a card, less the experts that stay with the CPU.

    Token embeddings stay there too (``dev_input``); a model that uses them as its output gets a
    copy on the card (``TENSOR_DUPLICATED`` in src/models/llama.cpp). `Model.output_bytes` has it.
    Experts of the first layers stay where ``--n-cpu-moe`` says so
    (``llm_add_n_cpu_ffn_overrides``, common/common.h).
    """
    return model.bytes_of(layers) - model.experts_of(held_back(layers, n_cpu_moe))


def held_back(layers: range, n_cpu_moe: int) -> range:
    """Those of `layers` whose experts are with the CPU."""
    return range(layers.start, max(min(layers.stop, n_cpu_moe), layers.start))


def weights(model: Model, n_gpu_layers: int) -> int:
    """Bytes of the weights on the card: the last layers and, before any of them, the output.

    Source: ``llama_model_base::load_tensors``, src/llama-model.cpp.
    """
    return weights_of(model, layers_on_cards(model, n_gpu_layers))


def kv_cache(model: Model, settings: Settings) -> int:
    """Bytes of the KV cache on the card."""
    return kv_of(model, settings, layers_on_cards(model, settings.n_gpu_layers))


def compute_buffer(
    model: Model, settings: Settings, *, flash_attention: bool = True, part: Part = WHOLE
) -> int:
    """Bytes of the buffer for what is computed between weights and answer.

    The largest graph is a prompt of ubatch tokens, which llama.cpp rehearses at the start
    (``llama_context::sched_reserve``, src/llama-context.cpp). Logits are made for one token of each
    slot only: llama-server sets ``n_outputs_max`` (``server_output_limits``,
    tools/server/server-context.cpp). Without flash attention every head's scores are written out,
    tokens × context × heads (``build_attn_mha``, src/llama-graph.cpp).

    Layers that are not on the card: for a prompt their matrices are sent to it one by one, and so
    may be one layer's K and V (``ggml_backend_sched_split_graph``, ggml-backend.cpp). Experts that
    are not there are sent likewise, the matrix of all of a layer's in one place.
    """
    size = graph_buffer(model, settings, flash_attention=flash_attention, part=part)
    away = first_gpu_layer(model, settings.n_gpu_layers)
    if settings.computed_together < _WORTH_SENDING or not part.on_gpu:
        return size
    if away:
        widest = max(kv_of_layer(model, settings, layer) for layer in range(model.n_layers))
        return size + model.largest_matrix_bytes + widest
    return size + (model.largest_matrix_bytes if settings.n_cpu_moe else 0)


def pool(
    model: Model,
    settings: Settings,
    *,
    flash_attention: bool = True,
    generation: Generation = PASCAL,
) -> int:
    """Bytes of the kernels' scratch memory, which grows with the first long prompt.

    One operation runs after the other, so the hungriest counts. Pascal cards and later ones have
    virtual memory management, so the pool is ``ggml_cuda_pool_vmm`` (ggml-cuda.cu), which grows by
    what is missing.

    - Matrix products in int8 (MMQ) want the tokens as q8_1, 144 bytes for 128 values, rows padded
      to 512, and a tile more (``ggml_cuda_mul_mat_q``, ggml-cuda/mmq.cu); experts want each of
      theirs, and their numbers.
    - Flash attention's tile kernel splits a row among parallel blocks, each with its own result in
      f32 and two numbers (``launch_fattn``, ggml-cuda/fattn-common.cuh).
    - Without flash attention cuBLAS wants K and V of a layer in f32, or where f16 is fast the
      scores in f16; the same goes for weights that are not quantised
      (``ggml_cuda_mul_mat_cublas_impl``, ggml-cuda.cu).
    """
    tokens = settings.computed_together
    results = tokens * model.n_heads
    head_v = max(model.head_v, model.window_head_v)
    if flash_attention:
        attention = _BLOCKS_OF_A_ROW * results * (head_v * _F32 + 2 * _F32)
    elif generation.fast_f16:
        attention = results * settings.ctx_per_slot * _F16
    else:
        width = max(model.kv_heads) * max(model.head_k, model.head_v)
        attention = settings.ctx_per_slot * settings.slots * width * _F32
    plain = 0
    if model.converted:
        widest = max(model.n_embd, model.n_ff)
        plain = 2 * tokens * widest * _F16 if generation.fast_f16 else model.converted * _F32
    needed = max(_products(model, tokens), attention, plain)
    return -(-needed // _POOL_STEP) * _POOL_STEP


def _products(model: Model, tokens: int) -> int:
    """Bytes that MMQ wants for the widest product, dense or of experts."""

    def quantised(rows: int, width: int) -> int:
        return (rows * -(-width // 512) * 512 + 128 * 128) * 144 // 128

    size = quantised(tokens, max(model.n_embd, model.n_ff, model.n_heads * model.head_v))
    if model.experts:
        rows = tokens * model.experts_used
        numbers = (2 * rows + model.experts + 1) * _I32
        size = max(size, numbers + quantised(rows, max(model.n_embd, model.n_ff_expert)))
    return size


def vram_need(
    model: Model,
    settings: Settings,
    *,
    flash_attention: bool = True,
    generation: Generation = PASCAL,
    layers: range | None = None,
    part: Part = WHOLE,
) -> VramNeed:
    """VRAM of a llama-server for `model` with `settings` on a card of `generation`.

    Args:
        model: The model.
        settings: Of the llama-server.
        flash_attention: Whether it is on.
        generation: Of the card.
        layers: Those of this card; all that are not with the CPU if it is the only one.
        part: What of the graph it computes.
    """
    here = layers_on_cards(model, settings.n_gpu_layers) if layers is None else layers
    return VramNeed(
        weights=weights_of(model, here, settings.n_cpu_moe),
        kv=kv_of(model, settings, here),
        compute=compute_buffer(model, settings, flash_attention=flash_attention, part=part),
        pool=pool(model, settings, flash_attention=flash_attention, generation=generation),
        runtime=generation.own,
    )


def usable(vram: int) -> int:
    """What of a card's VRAM (bytes) is planned for."""
    return int(vram * (1 - MARGIN))
