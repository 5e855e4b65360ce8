"""Models to plan for without a file: shapes, and what llama.cpp's quantiser makes of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from heartcode_models.errors import ModelError
from heartcode_models.gguf.header import Tensor
from heartcode_models.gguf.model import Model


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama's sizes, as in its config.json.

    Attributes:
        vocabulary_bytes: What the file holds beside the tensors, nearly all of it the tokens and
            merges of the vocabulary.
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
    """The type that the quantiser gives a matrix of a dense Llama.

    Source: ``llama_tensor_get_type_impl`` in src/llama-quant.cpp, for files made with no options
    beside the type's name.

    Args:
        quantisation: A key of `_BASE`.
        role: The tensor's name without its layer and ``.weight``.
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
    return exceptions.get((quantisation, role), base)


def tensors(shape: Shape, quantisation: str) -> Iterator[Tensor]:
    """Yield every tensor of the file, in the order of a converted Llama."""
    embd, kv = shape.n_embd, shape.n_kv_heads * shape.head
    heads = shape.n_heads * shape.head

    def matrix(role: str, layer: int, columns: int, rows: int) -> Tensor:
        place = role if role in ("output", "token_embd") else f"blk.{layer}.{role}"
        kind = tensor_type(quantisation, role, layer, shape)
        return Tensor(name=f"{place}.weight", sizes=(columns, rows), kind=kind)

    def vector(name: str, size: int = embd) -> Tensor:
        return Tensor(name=f"{name}.weight", sizes=(size,), kind="F32")

    yield vector("rope_freqs", shape.head // 2)
    yield matrix("token_embd", 0, embd, shape.n_vocab)
    for layer in range(shape.n_layers):
        yield vector(f"blk.{layer}.attn_norm")
        yield matrix("attn_q", layer, embd, heads)
        yield matrix("attn_k", layer, embd, kv)
        yield matrix("attn_v", layer, embd, kv)
        yield matrix("attn_output", layer, heads, embd)
        yield vector(f"blk.{layer}.ffn_norm")
        yield matrix("ffn_gate", layer, embd, shape.n_ff)
        yield matrix("ffn_up", layer, embd, shape.n_ff)
        yield matrix("ffn_down", layer, shape.n_ff, embd)
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
    sizes = {tensor.name: tensor.nbytes for tensor in tensors(shape, name)}
    embedding = sizes["token_embd.weight"]
    output = sizes["output_norm.weight"] + sizes.get("output.weight", embedding)
    layers = range(shape.n_layers)
    return Model(
        name=shape.name,
        quantisation=name,
        n_layers=shape.n_layers,
        n_embd=shape.n_embd,
        n_ff=shape.n_ff,
        n_heads=shape.n_heads,
        head_k=shape.head,
        head_v=shape.head,
        kv_heads=(shape.n_kv_heads,) * shape.n_layers,
        n_vocab=shape.n_vocab,
        n_ctx_train=shape.n_ctx_train,
        layer_bytes=tuple(
            sum(size for name, size in sizes.items() if name.startswith(f"blk.{layer}."))
            for layer in layers
        ),
        embedding_bytes=embedding,
        output_bytes=output,
        file_bytes=sum(sizes.values()) + shape.vocabulary_bytes,
        output_copy_bytes=embedding if shape.tied else 0,
        largest_matrix_bytes=max(size for name, size in sizes.items() if name.startswith("blk.")),
    )
