"""Small models of zeros of the architectures whose buffers the planner claims to know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from heartcode_models.gguf.header import Tensor
from heartcode_models.gguf.model import Model
from heartcode_models.planner.known_models import Shape
from heartcode_models.planner.settings import Settings

from tools.planning.synthetic import write_zeros


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What tells an architecture from a Llama; sizes are small and those of no real model.

    Attributes:
        heads: Query heads.
        kv_heads: Key/value heads.
        head: Their width.
        tied: Whether the embeddings are the output.
        fused: Whether Q, K and V are one matrix, and gate and up another.
        biases: Whether Q, K and V have biases.
        qk_norm: Whether Q and K are normed.
        post_norm: Whether what attention and feed-forward network make is normed.
        sinks: Whether attention has sinks, and all matrices biases (gpt-oss).
        norm_biases: Whether norms and matrices have biases (Phi 3.5 MoE).
        window_head: Width of a head under a window, where it is another one.
        per_layer: Width of each layer's own embeddings of a token; 0 if it has none.
        altup: Whether it is a Gemma 3n: four residual streams, and what belongs to them.
        experts: Experts of a layer; 0 for a dense model.
        expert_width: Of each.
        shared_width: Of what every token takes beside them.
        metadata: What else it says.
    """

    heads: int = 16
    kv_heads: int = 4
    head: int = 64
    tied: bool = False
    fused: bool = False
    biases: bool = False
    qk_norm: bool = False
    post_norm: bool = False
    sinks: bool = False
    norm_biases: bool = False
    window_head: int = 0
    per_layer: int = 0
    altup: bool = False
    experts: int = 0
    expert_width: int = 256
    shared_width: int = 0
    metadata: dict[str, int | list[bool]] = field(default_factory=dict)


_EMBD, _FF, _VOCAB, _LAYERS = 1024, 3072, 4096, 6
_STREAMS, _LAUREL = 4, 64
_EXPERTS: dict[str, int | list[bool]] = {
    "expert_count": 64,
    "expert_used_count": 8,
    "expert_feed_forward_length": 256,
}

ARCHITECTURES = {
    "llama": Architecture(
        head=128,
        experts=8,
        expert_width=_FF,
        metadata={"expert_count": 8, "expert_used_count": 2},
    ),
    "qwen2": Architecture(biases=True),
    "qwen2moe": Architecture(
        kv_heads=16,
        experts=64,
        shared_width=1024,
        metadata=_EXPERTS | {"expert_shared_feed_forward_length": 1024},
    ),
    "qwen3": Architecture(head=128, qk_norm=True),
    "qwen3moe": Architecture(head=128, qk_norm=True, experts=64, metadata=_EXPERTS),
    "gemma2": Architecture(
        heads=8, head=256, tied=True, post_norm=True, metadata={"attention.sliding_window": 512}
    ),
    "gemma3": Architecture(
        heads=8,
        head=256,
        tied=True,
        qk_norm=True,
        post_norm=True,
        metadata={"attention.sliding_window": 512},
    ),
    "phi3": Architecture(fused=True),
    "mistral3": Architecture(head=128),
    "gemma": Architecture(heads=8, head=256, tied=True),
    "phimoe": Architecture(
        norm_biases=True,
        experts=16,
        expert_width=_FF,
        metadata={"expert_count": 16, "expert_used_count": 2},
    ),
    "gpt-oss": Architecture(
        sinks=True,
        post_norm=True,
        experts=32,
        metadata={
            "expert_count": 32,
            "expert_used_count": 4,
            "expert_feed_forward_length": 256,
            "attention.sliding_window": 128,
        },
    ),
    "gemma3n": Architecture(
        heads=8,
        kv_heads=2,
        head=256,
        tied=True,
        qk_norm=True,
        post_norm=True,
        per_layer=256,
        altup=True,
        metadata={"attention.sliding_window": 512},
    ),
    "gemma4": Architecture(
        heads=8,
        kv_heads=1,
        head=512,
        window_head=256,
        tied=True,
        qk_norm=True,
        post_norm=True,
        per_layer=256,
        metadata={
            "attention.sliding_window": 512,
            "attention.shared_kv_layers": 2,
            "attention.sliding_window_pattern": [True, False, True, False, True, False],
            "attention.key_length_swa": 256,
            "attention.value_length_swa": 256,
            "embedding_length_per_layer_input": 256,
            "rope.dimension_count_swa": 256,
        },
    ),
}


def write_small(path: Path, name: str) -> None:
    """Write the small model of an architecture (a key of ARCHITECTURES) to `path`."""
    kind = ARCHITECTURES[name]
    shape = Shape(
        name="small",  # of a phi3 by name llama.cpp wants more of the vocabulary
        n_layers=_LAYERS,
        n_embd=_EMBD,
        n_ff=_FF,
        n_heads=kind.heads,
        n_kv_heads=kind.kv_heads,
        head=kind.head,
        n_vocab=_VOCAB,
        tied=kind.tied,
    )
    write_zeros(path, name, shape, "Q4_K_M", infos=list(_tensors(kind)), metadata=kind.metadata)


def small_settings(model: Model, kv_type: str) -> Settings:
    """With what a small model is compared with a llama-server: two slots for f16."""
    return Settings(
        n_ctx=2048,
        slots=1 if kv_type == "q8_0" else 2,
        kv_type=kv_type,
        n_batch=512,
        n_ubatch=512,
        n_gpu_layers=model.all_layers,
    )


def _matrix(name: str, *sizes: int) -> Tensor:
    return Tensor(name=f"{name}.weight", sizes=sizes, kind="Q4_K")


def _vector(name: str, *sizes: int) -> Tensor:
    return Tensor(name=name, sizes=sizes, kind="F32")


def _tensors(kind: Architecture) -> Iterator[Tensor]:
    yield from _ends(kind)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        yield from _attention(block, kind, layer)
        yield from _norms(block, kind)
        yield from _experts(block, kind) if kind.experts else _dense(block, kind)
        if kind.per_layer:
            yield _matrix(f"{block}inp_gate", _EMBD, kind.per_layer)
            yield _matrix(f"{block}proj", kind.per_layer, _EMBD)
            yield _vector(f"{block}post_norm.weight", _EMBD)
        if kind.altup:
            yield from _altup(block)


def _ends(kind: Architecture) -> Iterator[Tensor]:
    """What is in no layer."""
    yield _matrix("token_embd", _EMBD, _VOCAB)
    yield _vector("output_norm.weight", _EMBD)
    if not kind.tied:
        yield _matrix("output", _EMBD, _VOCAB)
    if kind.norm_biases:
        yield _vector("output_norm.bias", _EMBD)
        yield _vector("output.bias", _VOCAB)
    if kind.per_layer:
        yield _matrix("per_layer_token_embd", kind.per_layer * _LAYERS, _VOCAB)
        yield _matrix("per_layer_model_proj", _EMBD, kind.per_layer * _LAYERS)
        yield _vector("per_layer_proj_norm.weight", kind.per_layer)
    if kind.window_head:
        yield _vector("rope_freqs.weight", kind.head // 2)
    if kind.altup:
        yield _matrix("altup_proj", _EMBD, _EMBD, _STREAMS - 1)
        yield _matrix("altup_unembd_proj", _EMBD, _EMBD, _STREAMS - 1)


def _norms(block: str, kind: Architecture) -> Iterator[Tensor]:
    """Norms around the feed-forward network; gpt-oss calls the one before it as others the last."""
    if kind.post_norm:
        yield _vector(f"{block}post_attention_norm.weight", _EMBD)
    if not kind.sinks:
        yield _vector(f"{block}ffn_norm.weight", _EMBD)
        if kind.post_norm:
            yield _vector(f"{block}post_ffw_norm.weight", _EMBD)
    if kind.norm_biases:
        yield _vector(f"{block}ffn_norm.bias", _EMBD)


def _altup(block: str) -> Iterator[Tensor]:
    """What a layer of Gemma 3n has for its streams, and its shortcut beside attention."""
    yield _vector(f"{block}altup_correct_coef.weight", _STREAMS, _STREAMS)
    yield _vector(f"{block}altup_correct_scale.weight", _EMBD)
    yield _vector(f"{block}altup_predict_coef.weight", _STREAMS, _STREAMS * _STREAMS)
    yield _vector(f"{block}altup_router.weight", _EMBD, _STREAMS)
    yield _vector(f"{block}altup_router_norm.weight", _EMBD)
    yield _vector(f"{block}laurel_l.weight", _EMBD, _LAUREL)
    yield _vector(f"{block}laurel_r.weight", _LAUREL, _EMBD)
    yield _vector(f"{block}laurel_post_norm.weight", _EMBD)


def _attention(block: str, kind: Architecture, layer: int) -> Iterator[Tensor]:
    pattern = kind.metadata.get("attention.sliding_window_pattern")
    windowed = isinstance(pattern, list) and pattern[layer]
    head = kind.window_head if windowed and kind.window_head else kind.head
    q, kv = kind.heads * head, kind.kv_heads * head
    yield _vector(f"{block}attn_norm.weight", _EMBD)
    if kind.norm_biases:
        yield _vector(f"{block}attn_norm.bias", _EMBD)
    if kind.fused:
        yield _matrix(f"{block}attn_qkv", _EMBD, q + 2 * kv)
    else:
        for name, width in (("q", q), ("k", kv), ("v", kv)):
            yield _matrix(f"{block}attn_{name}", _EMBD, width)
            if kind.biases or kind.sinks or kind.norm_biases:
                yield _vector(f"{block}attn_{name}.bias", width)
    if kind.qk_norm:
        yield _vector(f"{block}attn_q_norm.weight", head)
        yield _vector(f"{block}attn_k_norm.weight", head)
    yield _matrix(f"{block}attn_output", q, _EMBD)
    if kind.sinks:
        yield _vector(f"{block}attn_sinks.weight", kind.heads)
    if kind.sinks or kind.norm_biases:
        yield _vector(f"{block}attn_output.bias", _EMBD)


def _dense(block: str, kind: Architecture) -> Iterator[Tensor]:
    if not kind.fused:
        yield _matrix(f"{block}ffn_gate", _EMBD, _FF)
    yield _matrix(f"{block}ffn_up", _EMBD, 2 * _FF if kind.fused else _FF)
    yield _matrix(f"{block}ffn_down", _FF, _EMBD)


def _experts(block: str, kind: Architecture) -> Iterator[Tensor]:
    width, number = kind.expert_width, kind.experts
    yield _vector(f"{block}ffn_gate_inp.weight", _EMBD, number)
    yield _matrix(f"{block}ffn_gate_exps", _EMBD, width, number)
    yield _matrix(f"{block}ffn_up_exps", _EMBD, width, number)
    yield _matrix(f"{block}ffn_down_exps", width, _EMBD, number)
    if kind.sinks:
        yield _vector(f"{block}ffn_gate_inp.bias", number)
        yield _vector(f"{block}ffn_gate_exps.bias", width, number)
        yield _vector(f"{block}ffn_up_exps.bias", width, number)
        yield _vector(f"{block}ffn_down_exps.bias", _EMBD, number)
    if kind.shared_width:
        yield _vector(f"{block}ffn_gate_inp_shexp.weight", _EMBD)
        yield _matrix(f"{block}ffn_gate_shexp", _EMBD, kind.shared_width)
        yield _matrix(f"{block}ffn_up_shexp", _EMBD, kind.shared_width)
        yield _matrix(f"{block}ffn_down_shexp", kind.shared_width, _EMBD)
