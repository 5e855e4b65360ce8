"""What a file's tensors say of where its bytes will lie and how wide its layers are."""

from dataclasses import replace
from typing import Any

import pytest
from heartcode_models.gguf.header import Header, Tensor
from heartcode_models.gguf.model import Model
from heartcode_models.gguf.read_model import model_of

EMBD, VOCAB, LAYERS = 1024, 4096, 2


def matrix(name: str, columns: int, rows: int, *more: int, kind: str = "Q4_K") -> Tensor:
    return Tensor(name=f"{name}.weight", sizes=(columns, rows, *more), kind=kind)


ATTENTION = [
    tensor
    for layer in range(LAYERS)
    for tensor in (
        matrix(f"blk.{layer}.attn_q", EMBD, EMBD),
        matrix(f"blk.{layer}.attn_k", EMBD, 256),
        matrix(f"blk.{layer}.attn_v", EMBD, 256),
        matrix(f"blk.{layer}.attn_output", EMBD, EMBD),
    )
]
DENSE = [
    tensor
    for layer in range(LAYERS)
    for tensor in (
        matrix(f"blk.{layer}.ffn_up", EMBD, 3072),
        matrix(f"blk.{layer}.ffn_down", 3072, EMBD, kind="Q6_K"),
    )
]
EXPERTS = [
    tensor
    for layer in range(LAYERS)
    for tensor in (
        matrix(f"blk.{layer}.ffn_gate_inp", EMBD, 64, kind="F32"),
        matrix(f"blk.{layer}.ffn_up_exps", EMBD, 256, 64),
        matrix(f"blk.{layer}.ffn_gate_exps", EMBD, 256, 64),
        matrix(f"blk.{layer}.ffn_down_exps", 256, EMBD, 64),
    )
]
ENDS = [matrix("token_embd", EMBD, VOCAB, kind="Q6_K"), matrix("output", EMBD, VOCAB, kind="Q6_K")]


def model(*tensors: Tensor, **metadata: Any) -> Model:
    facts = {
        "block_count": LAYERS,
        "embedding_length": EMBD,
        "feed_forward_length": 3072,
        "attention.head_count": 16,
        "attention.head_count_kv": 4,
        "context_length": 8192,
    } | metadata
    header = Header(
        source="a.gguf",
        metadata={"general.architecture": "qwen3"} | {f"qwen3.{k}": v for k, v in facts.items()},
        tensors=tuple(tensors),
        file_bytes=sum(tensor.nbytes for tensor in tensors),
    )
    return model_of(header)


@pytest.mark.parametrize(
    "name",
    [
        "per_layer_token_embd",
        "position_embd",
        "token_types",
        "masked_embd_centroids",
        "masked_embd_ordering",
    ],
)
def test_whatever_the_first_layer_is_looked_up_in_stays_in_host_ram(name: str) -> None:
    more = matrix(name, EMBD, VOCAB)
    without, with_it = model(*ENDS, *ATTENTION, *DENSE), model(*ENDS, *ATTENTION, *DENSE, more)
    assert with_it.embedding_bytes == without.embedding_bytes + more.nbytes
    assert with_it.output_bytes == without.output_bytes
    # Tied embeddings have a copy of the tokens' alone.
    tied = model(ENDS[0], *ATTENTION, *DENSE, more)
    assert tied.output_bytes == tied.output_copy_bytes == ENDS[0].nbytes


def test_the_layers_of_a_mixture_of_experts() -> None:
    experts = {"expert_count": 64, "expert_used_count": 8}
    sparse = model(*ENDS, *ATTENTION, *EXPERTS, **experts)
    assert (sparse.experts, sparse.experts_used, sparse.n_ff_expert, sparse.n_ff) == (64, 8, 256, 0)
    of_experts = sum(tensor.nbytes for tensor in EXPERTS if "_exps" in tensor.name)
    assert sum(sparse.expert_bytes) == of_experts
    assert sparse.largest_matrix_bytes == EXPERTS[1].nbytes
    # The first layers of some have none.
    mixed = model(*ENDS, *ATTENTION, *DENSE[:2], *EXPERTS[4:], **experts)
    assert (mixed.n_ff, mixed.n_ff_expert) == (3072, 256)
    shared = matrix("blk.1.ffn_up_shexp", EMBD, 512)
    assert model(*ENDS, *ATTENTION, *EXPERTS, shared, **experts).n_ff_shared == 512


def test_a_gate_and_an_up_in_one_matrix_are_two() -> None:
    fused = [replace(t, name=t.name.replace("up_exps", "gate_up_exps")) for t in EXPERTS]
    fused = [replace(t, sizes=(EMBD, 512, 64)) if "gate_up" in t.name else t for t in fused]
    experts = {"expert_count": 64, "expert_used_count": 8}
    assert model(*ENDS, *ATTENTION, *fused, **experts).n_ff_expert == 256


def test_matrices_that_are_not_quantised_are_noticed() -> None:
    assert model(*ENDS, *ATTENTION, *DENSE).converted == 0
    plain = [replace(tensor, kind="F16") for tensor in DENSE]
    assert model(*ENDS, *ATTENTION, *plain).converted == 3072 * EMBD
    output = replace(ENDS[1], kind="BF16")
    assert model(ENDS[0], output, *ATTENTION, *DENSE).converted == EMBD * VOCAB
    # Embeddings are looked up, and not multiplied with, unless they are the output too.
    looked_up = replace(ENDS[0], kind="F16")
    assert model(looked_up, ENDS[1], *ATTENTION, *DENSE).converted == 0
    assert model(looked_up, *ATTENTION, *DENSE).converted == EMBD * VOCAB


def test_a_sliding_window_is_noticed() -> None:
    assert model(*ENDS, *ATTENTION, *DENSE).sliding_window == 0
    windowed = model(*ENDS, *ATTENTION, *DENSE, **{"attention.sliding_window": 512})
    assert windowed.sliding_window == 512
