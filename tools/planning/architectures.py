"""Small models of zeros of the architectures whose buffers the planner claims to know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from heartcode_models.gguf.header import Tensor
from heartcode_models.planner.known_models import Shape

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
    experts: int = 0
    expert_width: int = 256
    shared_width: int = 0
    metadata: dict[str, int] = field(default_factory=dict)


_EMBD, _FF, _VOCAB, _LAYERS = 1024, 3072, 4096, 6
_EXPERTS = {"expert_count": 64, "expert_used_count": 8, "expert_feed_forward_length": 256}

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
    widths = {"attention.key_length": kind.head, "attention.value_length": kind.head}
    metadata = widths | kind.metadata
    write_zeros(path, name, shape, "Q4_K_M", infos=list(_tensors(kind)), metadata=metadata)


def _matrix(name: str, *sizes: int) -> Tensor:
    return Tensor(name=f"{name}.weight", sizes=sizes, kind="Q4_K")


def _vector(name: str, *sizes: int) -> Tensor:
    return Tensor(name=name, sizes=sizes, kind="F32")


def _tensors(kind: Architecture) -> Iterator[Tensor]:
    yield _matrix("token_embd", _EMBD, _VOCAB)
    yield _vector("output_norm.weight", _EMBD)
    if not kind.tied:
        yield _matrix("output", _EMBD, _VOCAB)
    for layer in range(_LAYERS):
        block = f"blk.{layer}."
        yield from _attention(block, kind)
        yield _vector(f"{block}ffn_norm.weight", _EMBD)
        if kind.post_norm:
            yield _vector(f"{block}post_attention_norm.weight", _EMBD)
            yield _vector(f"{block}post_ffw_norm.weight", _EMBD)
        yield from _experts(block, kind) if kind.experts else _dense(block, kind)


def _attention(block: str, kind: Architecture) -> Iterator[Tensor]:
    q, kv = kind.heads * kind.head, kind.kv_heads * kind.head
    yield _vector(f"{block}attn_norm.weight", _EMBD)
    if kind.fused:
        yield _matrix(f"{block}attn_qkv", _EMBD, q + 2 * kv)
    else:
        for name, width in (("q", q), ("k", kv), ("v", kv)):
            yield _matrix(f"{block}attn_{name}", _EMBD, width)
            if kind.biases:
                yield _vector(f"{block}attn_{name}.bias", width)
    if kind.qk_norm:
        yield _vector(f"{block}attn_q_norm.weight", kind.head)
        yield _vector(f"{block}attn_k_norm.weight", kind.head)
    yield _matrix(f"{block}attn_output", q, _EMBD)


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
    if kind.shared_width:
        yield _vector(f"{block}ffn_gate_inp_shexp.weight", _EMBD)
        yield _matrix(f"{block}ffn_gate_shexp", _EMBD, kind.shared_width)
        yield _matrix(f"{block}ffn_up_shexp", _EMBD, kind.shared_width)
        yield _matrix(f"{block}ffn_down_shexp", kind.shared_width, _EMBD)
