"""Models to plan for without a file: shapes, and what llama.cpp's quantiser makes of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from heartcode_models.errors import ModelError
from heartcode_models.gguf.header import Header, Tensor
from heartcode_models.gguf.model import Model
from heartcode_models.gguf.read_model import FILE_TYPES, model_of


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model's sizes, as in its config.json.

    Attributes:
        n_ff: Width of the feed-forward layers, or of one expert.
        vocabulary_bytes: What the file holds beside the tensors, nearly all of it the tokens and
            merges of the vocabulary.
        experts: Experts of a layer; 0 for a dense model.
        experts_used: Of them for each token.
        qk_norm: Whether Q and K are normed.
        architecture: As llama.cpp names it.
    """

    name: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head: int
    n_vocab: int
    tied: bool
    n_ctx_train: int = 131072
    vocabulary_bytes: int = 7_800_000
    experts: int = 0
    experts_used: int = 0
    qk_norm: bool = False
    architecture: str = "llama"


SHAPES = {
    "8B": Shape(
        name="Llama-3.1-8B",
        n_layers=32,
        n_embd=4096,
        n_ff=14336,
        n_heads=32,
        n_kv_heads=8,
        head=128,
        n_vocab=128256,
        tied=False,
    ),
    "3B": Shape(
        name="Llama-3.2-3B",
        n_layers=28,
        n_embd=3072,
        n_ff=8192,
        n_heads=24,
        n_kv_heads=8,
        head=128,
        n_vocab=128256,
        tied=True,
    ),
    "12B": Shape(
        name="Mistral-Nemo-12B",
        n_layers=40,
        n_embd=5120,
        n_ff=14336,
        n_heads=32,
        n_kv_heads=8,
        head=128,
        n_vocab=131072,
        tied=False,
        vocabulary_bytes=7_900_000,
    ),
    "24B": Shape(
        name="Mistral-Small-24B",
        n_layers=40,
        n_embd=5120,
        n_ff=32768,
        n_heads=32,
        n_kv_heads=8,
        head=128,
        n_vocab=131072,
        tied=False,
        n_ctx_train=32768,
    ),
    "30B-A3B": Shape(
        name="Qwen3-30B-A3B",
        n_layers=48,
        n_embd=2048,
        n_ff=768,
        n_heads=32,
        n_kv_heads=4,
        head=128,
        n_vocab=151936,
        tied=False,
        n_ctx_train=40960,
        vocabulary_bytes=5_900_000,
        experts=128,
        experts_used=8,
        qk_norm=True,
        architecture="qwen3moe",
    ),
    # Larger than a rig of six cards with 6 GB.
    "70B": Shape(
        name="Llama-3.1-70B",
        n_layers=80,
        n_embd=8192,
        n_ff=28672,
        n_heads=64,
        n_kv_heads=8,
        head=128,
        n_vocab=128256,
        tied=False,
    ),
}

#: Best first. Below Q4_K_M the answers get visibly worse: those are named in refusals, not chosen.
QUANTISATIONS = ("Q6_K", "Q5_K_M", "Q4_K_M")
LAST_RESORTS = ("Q3_K_M", "Q2_K")

_BASE = {"Q2_K": "Q2_K", "Q3_K_M": "Q3_K", "Q4_K_M": "Q4_K", "Q5_K_M": "Q5_K", "Q6_K": "Q6_K"}


def quantisations() -> tuple[str, ...]:
    """Every quantisation whose sizes are built in."""
    return tuple(_BASE)


def _more_bits(layer: int, layers: int) -> bool:
    """``use_more_bits`` in llama-quant.cpp: the first and last eighth and every third between."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2  # noqa: PLR2004


def tensor_type(quantisation: str, role: str, layer: int, shape: Shape) -> str:
    """The type that the quantiser gives a matrix, of all experts of a layer or of a dense model.

    Source: ``llama_tensor_get_type_impl`` in src/llama-quant.cpp, for files made with no options
    beside the type's name, and not for models of 8 experts.

    Args:
        quantisation: A key of `_BASE`.
        role: The tensor's name without its layer, ``_exps`` and ``.weight``.
        layer: Number of the layer, from 0.
        shape: The model.
    """
    base = _BASE[quantisation]
    if role == "output" or (role == "token_embd" and shape.tied):
        return "Q6_K"
    grouped = shape.n_heads // shape.n_kv_heads >= 4  # noqa: PLR2004 (n_gqa() >= 4)
    more = _more_bits(layer, shape.n_layers)
    exceptions = {
        ("Q2_K", "attn_v"): "Q4_K" if grouped else "Q3_K",
        ("Q2_K", "attn_output"): "Q3_K",
        ("Q2_K", "ffn_down"): "Q3_K",
        ("Q3_K_M", "attn_v"): "Q5_K" if layer < 2 else "Q4_K",  # noqa: PLR2004
        ("Q3_K_M", "attn_output"): "Q4_K",
        ("Q3_K_M", "ffn_down"): "Q5_K" if layer < shape.n_layers // 16 else "Q4_K",
        ("Q4_K_M", "attn_v"): "Q6_K" if more else base,
        ("Q4_K_M", "ffn_down"): "Q6_K" if more else base,
        ("Q5_K_M", "attn_v"): "Q6_K" if more else base,
        ("Q5_K_M", "ffn_down"): "Q6_K" if more else base,
    }
    kind = exceptions.get((quantisation, role), base)
    # Of a Llama 70B (``LLM_TYPE_70B``), whose heads share V by eights.
    is_70b = shape.architecture == "llama" and shape.n_layers == 80  # noqa: PLR2004
    return "Q5_K" if is_70b and role == "attn_v" and kind in ("Q3_K", "Q4_K") else kind


def tensors(shape: Shape, quantisation: str) -> Iterator[Tensor]:
    """Yield every tensor of the file, in the order of a converted Llama."""
    embd, kv = shape.n_embd, shape.n_kv_heads * shape.head
    heads = shape.n_heads * shape.head

    def matrix(role: str, layer: int, *sizes: int) -> Tensor:
        place = role if role in ("output", "token_embd") else f"blk.{layer}.{role}"
        kind = tensor_type(quantisation, role.removesuffix("_exps"), layer, shape)
        return Tensor(name=f"{place}.weight", sizes=sizes, kind=kind)

    def vector(name: str, *sizes: int) -> Tensor:
        return Tensor(name=f"{name}.weight", sizes=sizes or (embd,), kind="F32")

    if not shape.experts:
        yield vector("rope_freqs", shape.head // 2)
    yield matrix("token_embd", 0, embd, shape.n_vocab)
    for layer in range(shape.n_layers):
        yield vector(f"blk.{layer}.attn_norm")
        yield matrix("attn_q", layer, embd, heads)
        yield matrix("attn_k", layer, embd, kv)
        yield matrix("attn_v", layer, embd, kv)
        yield matrix("attn_output", layer, heads, embd)
        if shape.qk_norm:
            yield vector(f"blk.{layer}.attn_q_norm", shape.head)
            yield vector(f"blk.{layer}.attn_k_norm", shape.head)
        yield vector(f"blk.{layer}.ffn_norm")
        of_all = (shape.experts,) if shape.experts else ()
        kind = "_exps" if shape.experts else ""
        if shape.experts:
            yield vector(f"blk.{layer}.ffn_gate_inp", embd, shape.experts)
        yield matrix(f"ffn_gate{kind}", layer, embd, shape.n_ff, *of_all)
        yield matrix(f"ffn_up{kind}", layer, embd, shape.n_ff, *of_all)
        yield matrix(f"ffn_down{kind}", layer, shape.n_ff, embd, *of_all)
    yield vector("output_norm")
    if not shape.tied:
        yield matrix("output", 0, embd, shape.n_vocab)


@cache
def known_model(size: str, quantisation: str) -> Model:
    """A model by its size and quantisation: ``known_model("8B", "Q4_K_M")``.

    Raises:
        ModelError: the planner knows no such size or quantisation.
    """
    shape = SHAPES.get(size.upper())
    if shape is None:
        raise ModelError(f"no built-in model '{size}'; there are {', '.join(SHAPES)}")
    name = quantisation.upper()
    if name not in _BASE:
        known = ", ".join(reversed(_BASE))
        raise ModelError(f"no quantisation '{quantisation}'; there are {known}")
    return model_of(_header(shape, name))


def _header(shape: Shape, quantisation: str) -> Header:
    """The header of the file that the quantiser would write."""
    own: dict[str, int] = {
        "block_count": shape.n_layers,
        "embedding_length": shape.n_embd,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": shape.n_heads,
        "attention.head_count_kv": shape.n_kv_heads,
        "attention.key_length": shape.head,
        "attention.value_length": shape.head,
        "context_length": shape.n_ctx_train,
    }
    if shape.experts:
        own |= {"expert_count": shape.experts, "expert_used_count": shape.experts_used}
    kinds = {word: number for number, word in FILE_TYPES.items()}
    listed = tuple(tensors(shape, quantisation))
    return Header(
        source=shape.name,
        metadata={
            "general.architecture": shape.architecture,
            "general.name": shape.name,
            "general.file_type": kinds[quantisation],
            **{f"{shape.architecture}.{key}": value for key, value in own.items()},
        },
        tensors=listed,
        file_bytes=sum(tensor.nbytes for tensor in listed) + shape.vocabulary_bytes,
    )
