"""What a file's tensors say of where its bytes will lie and how wide its layers are."""

import json
from dataclasses import replace
from typing import Any

import pytest
from heartcode_models.errors import ModelError
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


def model(*tensors: Tensor, architecture: str = "qwen3", **metadata: Any) -> Model:
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
        metadata={
            "general.architecture": architecture,
            **{f"{architecture}.{key}": value for key, value in facts.items()},
        },
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
    experts: dict[str, Any] = {"expert_count": 64, "expert_used_count": 8}
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


def test_a_model_is_the_same_after_its_way_from_another_host() -> None:
    experts: dict[str, Any] = {"expert_count": 64, "expert_used_count": 8}
    for made in (model(*ENDS, *ATTENTION, *EXPERTS, **experts), deep("gemma3", 8, **WINDOW)):
        assert Model.from_data(json.loads(json.dumps(made.as_data()))) == made
    # A program of before knew less.
    sparse = model(*ENDS, *ATTENTION, *EXPERTS, **experts)
    told = sparse.as_data() | {"expert_bytes": sum(sparse.expert_bytes)}
    del told["windowed"], told["streams"]
    assert Model.from_data(told) == sparse
    dense = model(*ENDS, *ATTENTION, *DENSE)
    assert Model.from_data(dense.as_data() | {"expert_bytes": 0}) == dense


def test_a_gate_and_an_up_in_one_matrix_are_two() -> None:
    fused = [replace(t, name=t.name.replace("up_exps", "gate_up_exps")) for t in EXPERTS]
    fused = [replace(t, sizes=(EMBD, 512, 64)) if "gate_up" in t.name else t for t in fused]
    experts: dict[str, Any] = {"expert_count": 64, "expert_used_count": 8}
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


def of(architecture: str, **metadata: Any) -> Model:
    """A dense model of another architecture."""
    return model(*ENDS, *ATTENTION, *DENSE, architecture=architecture, **metadata)


WINDOW = {"attention.sliding_window": 512}


@pytest.mark.parametrize(
    ("architecture", "layers", "whole"),
    [
        ("gemma2", 6, [1, 3, 5]),
        ("gemma3", 8, [5]),
        ("gpt-oss", 4, [1, 3]),
        # llama.cpp gives these no windows, whatever the file says.
        ("phi3", 4, [0, 1, 2, 3]),
        ("qwen2", 4, [0, 1, 2, 3]),
        ("llama", 4, [0, 1, 2, 3]),
    ],
)
def test_which_layers_look_back_over_a_window_only(
    architecture: str, layers: int, whole: list[int]
) -> None:
    made = deep(architecture, layers, **WINDOW)
    assert [n for n in range(layers) if not made.has_window(n)] == whole
    assert made.sliding_window == (0 if len(whole) == layers else 512)


def deep(architecture: str, layers: int, **metadata: Any) -> Model:
    """A dense model of so many layers, all like the first."""
    blocks = [
        replace(tensor, name=tensor.name.replace("blk.0.", f"blk.{layer}."))
        for layer in range(layers)
        for tensor in (*ATTENTION[:4], *DENSE[:2])
    ]
    facts = {"block_count": layers} | metadata
    return model(*ENDS, *blocks, architecture=architecture, **facts)


def test_a_file_s_own_pattern_of_windows_counts() -> None:
    made = deep("gemma3", 4, **WINDOW, **{"attention.sliding_window_pattern": 2})
    assert made.windowed == (True, False, True, False)
    own = [True, True, False, True]
    made = deep("gemma4", 4, **WINDOW, **{"attention.sliding_window_pattern": own})
    assert list(made.windowed) == own
    with pytest.raises(ModelError, match="sliding_window_pattern"):
        deep("gemma4", 4, **WINDOW, **{"attention.sliding_window_pattern": own[1:]})
    assert deep("gemma2", 2).sliding_window == 4096
    assert deep("gemma3", 2).windowed == ()


def test_layers_without_k_and_v_of_their_own_take_no_cache() -> None:
    assert deep("gemma3n", 22, **WINDOW).kv_heads == (4,) * 20 + (0, 0)
    shared = deep("gemma4", 4, **WINDOW, **{"attention.shared_kv_layers": 3})
    assert shared.kv_heads == (4, 0, 0, 0)
    with pytest.raises(ModelError, match="shared_kv_layers"):
        deep("gemma4", 4, **WINDOW, **{"attention.shared_kv_layers": 4})


def test_heads_may_be_of_another_width_under_a_window() -> None:
    widths = {"attention.key_length_swa": 32, "attention.value_length_swa": 32}
    made = deep("gemma4", 4, **WINDOW, **widths, **{"attention.sliding_window_pattern": 2})
    assert [made.kv_width(layer) for layer in range(4)] == [(128, 128), (256, 256)] * 2


def test_heads_may_be_wider_than_the_model_divided_among_them() -> None:
    nemo = of("llama", **{"attention.key_length": 128, "attention.value_length": 128})
    assert (nemo.head_k, nemo.head_v) == (128, 128)
    assert of("llama").head_k == EMBD // 16


def test_what_belongs_to_no_layer_lies_with_the_first_or_the_output() -> None:
    plain = of("gemma3n", **WINDOW)
    projection = matrix("per_layer_model_proj", EMBD, 512)
    made = model(*ENDS, *ATTENTION, *DENSE, projection, architecture="gemma3n", **WINDOW)
    assert made.layer_bytes[0] == plain.layer_bytes[0] + projection.nbytes
    assert made.output_bytes == plain.output_bytes
    altup = matrix("altup_proj", EMBD, EMBD, 3)
    made = model(*ENDS, *ATTENTION, *DENSE, altup, architecture="gemma3n", **WINDOW)
    assert made.output_bytes == plain.output_bytes + altup.nbytes


@pytest.mark.parametrize("architecture", ["falcon-h1", "cohere2", "deepseek4"])
def test_an_architecture_that_is_not_known_is_refused_by_its_name(architecture: str) -> None:
    with pytest.raises(ModelError, match=f"is a {architecture}, .*it knows llama, "):
        of(architecture)
