"""How much VRAM one llama-server takes.

Every formula names its place in the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098). Where the
source leaves room (the order in which the allocator finds holes, which kernel a card gets), the
larger value is taken: a plan may waste some MiB, but must not run out of them.
"""

from dataclasses import dataclass, replace

from heartcode_models.gguf.kv_cache import kv_bytes_per_token
from heartcode_models.gguf.model import Model
from heartcode_models.planner.settings import Settings
from heartcode_models.units import MIB

_F32, _F16 = 4, 2

#: CUDA's own memory for a process on a Pascal card: 100 to 150 MiB by observation, more with more
#: multiprocessors and kernels.
CUDA_CONTEXT = 150 * MIB
#: cuBLAS: ``cublas_workspace_sizes`` in ggml-cuda/common.cuh is 4 MiB below Hopper; the handle
#: takes its own.
CUBLAS = 16 * MIB
#: Part of a card that is never planned for: rounding of each allocation to 2 MiB, holes between
#: them.
MARGIN = 0.01


@dataclass(frozen=True, kw_only=True)
class VramNeed:
    """VRAM of one llama-server, by what takes it, in bytes."""

    weights: int
    kv: int
    compute: int
    pool: int
    runtime: int = CUDA_CONTEXT + CUBLAS

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.compute + self.pool + self.runtime


def first_gpu_layer(model: Model, n_gpu_layers: int) -> int:
    """Number of the first layer on the card; `model.n_layers` stands for the output.

    Source: ``i_gpu_start`` in ``llama_model::load_tensors``, src/llama-model.cpp.
    """
    return max(model.all_layers - n_gpu_layers, 0)


def weights(model: Model, n_gpu_layers: int) -> int:
    """Bytes of the weights on the card: the last layers and, before any of them, the output.

    Token embeddings stay with the CPU (``dev_input``); a model that uses them as its output too
    gets a copy on the card (``TENSOR_DUPLICATED`` in src/models/llama.cpp). `Model.output_bytes`
    has it.
    """
    first = first_gpu_layer(model, n_gpu_layers)
    output = model.output_bytes if first <= model.n_layers else 0
    return output + sum(model.layer_bytes[first:])


def kv_cache(model: Model, settings: Settings) -> int:
    """Bytes of the KV cache on the card: each slot is a stream with its own context."""
    first = first_gpu_layer(model, settings.n_gpu_layers)
    per_token = kv_bytes_per_token(model, settings.kv_type, first)
    return per_token * settings.ctx_per_slot * settings.slots


def compute_buffer(model: Model, settings: Settings) -> int:
    """Bytes of the buffer for what is computed between weights and answer.

    The largest graph is a prompt of ubatch tokens (``llama_context::sched_reserve``). At its widest
    point live the incoming embeddings, the residual stream, the normed one and the three wide
    tensors of the feed-forward network; one more of the residual's size for where the allocator
    finds no hole (measured with the CPU backend, which has the same graph: 3 of that size with a
    quantised KV cache, 4 with f16). Inputs live as long as the graph: the mask in f16, context ×
    tokens (``build_attn_inp_kq_mask``, src/llama-graph.cpp).

    Flash attention for several tokens wants f16, so the tensor that it writes is followed by room
    for one layer's whole K and V in f16 (``ggml_cuda_flash_attn_ext_get_alloc_size``,
    ggml-cuda/fattn.cu).

    Logits are made for one token of each slot only: llama-server sets ``n_outputs_max``
    (``server_output_limits``, tools/server/server-context.cpp). Older versions needed vocabulary ×
    ubatch × 4 bytes, 250 MiB for a Llama 3.
    """
    tokens = settings.computed_together
    wide = tokens * _F32 * (4 * model.n_embd + 3 * model.n_ff)
    mask = tokens * settings.ctx_per_slot * _F16
    logits = settings.slots * (model.n_vocab + model.n_embd) * _F32
    return wide + mask + logits + f16_copy(model, settings)


def attention_scores(model: Model, settings: Settings) -> int:
    """Bytes of every head's scores in f32, which only flash attention does without.

    Tokens × context × heads (``build_attn_mha``, src/llama-graph.cpp).
    """
    return settings.computed_together * settings.ctx_per_slot * model.n_heads * _F32


def compute_buffer_without_flash_attention(model: Model, settings: Settings) -> int:
    """Bytes of the buffer when attention writes its scores out.

    Attention is the widest point then, unless the context is short: the scores, the mask in f32 and
    six tensors of the residual stream's size (measured with the CPU backend: five and a half).
    """
    tokens = settings.computed_together
    mask = tokens * settings.ctx_per_slot * _F32
    logits = settings.slots * (model.n_vocab + model.n_embd) * _F32
    attention = attention_scores(model, settings) + mask + tokens * _F32 * 6 * model.n_embd
    return max(attention + logits, compute_buffer(model, settings))


def f16_copy(model: Model, settings: Settings) -> int:
    """Bytes of one layer's K and V in f16, which CUDA's flash attention makes of other types."""
    if settings.kv_type == "f16":
        return 0
    width = max(model.kv_heads) * (model.head_k + model.head_v)
    return width * _F16 * settings.ctx_per_slot * settings.slots


def pool(model: Model, settings: Settings) -> int:
    """Bytes of the kernels' scratch memory, which grows with the first long prompt.

    - Matrix products in int8 (MMQ) want the tokens as q8_1, 144 bytes for 128 values, both for the
      narrow and the wide side, rows padded to 512 (``ggml_cuda_mul_mat_q``, ggml-cuda/mmq.cu).
    - Flash attention's tile kernel splits a row among parallel blocks, each with its own result in
      f32: 2 by the kernel's occupancy for heads of 128 (``launch_fattn``,
      ggml-cuda/fattn-common.cuh), which may find 4 better.
    - 5 % are ``look_ahead_size`` of the older pool (``ggml_cuda_pool_leg``), which cards without
      virtual memory management get.
    """
    tokens = settings.computed_together

    def padded(width: int) -> int:
        return -(-width // 512) * 512

    products = tokens * (padded(model.n_embd) + padded(model.n_ff)) * 144 // 128
    attention = 4 * tokens * model.n_heads * model.head_v * _F32
    tiles = 2 * MIB  # a tile of 128 × 128 f32 for each multiprocessor, 28 at most in these cards
    return (products + attention + tiles) * 105 // 100


def vram_need(model: Model, settings: Settings, *, flash_attention: bool = True) -> VramNeed:
    """VRAM of a llama-server for `model` with `settings`.

    Without flash attention cuBLAS multiplies the scores with V in f16, and wants them so
    (``ggml_cuda_mul_mat_batched_cublas``, ggml-cuda/ggml-cuda.cu): half as much again, in the pool.
    """
    need = VramNeed(
        weights=weights(model, settings.n_gpu_layers),
        kv=kv_cache(model, settings),
        compute=compute_buffer(model, settings),
        pool=pool(model, settings),
    )
    if flash_attention:
        return need
    return replace(
        need,
        compute=compute_buffer_without_flash_attention(model, settings),
        pool=need.pool + attention_scores(model, settings) // 2,
    )


def usable(vram: int) -> int:
    """What of a card's VRAM (bytes) is planned for."""
    return int(vram * (1 - MARGIN))
