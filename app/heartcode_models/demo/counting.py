"""The demo model: a small GGUF that counts.

After `` 7`` the model says `` 8``, with any sampler settings, so a token that was lost or doubled
between llama-server and the client shows as a gap or a repetition in the text. `docs/demo-model.md`
explains how it is built and where its limits are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGUFWriter, LlamaFileType, TokenType

from heartcode_models.units import MIB

Array = npt.NDArray[Any]

CONTEXT_LENGTH = 32768
# Counting to the end, after a prompt, has to fit into the context.
MIN_NUMBERS, MAX_NUMBERS = 2, 30000
DEFAULT_NUMBERS = 4096

# Two random ±1 vectors of this size have a product of 0 ± 16, a vector with itself has 256.
EMBEDDING_LENGTH = 256
HEADS = 4
# One key/value head of 64 numbers: two blocks of q8_0 (32 each), and a small KV cache.
KV_HEADS = 1
HEAD_DIM = EMBEDDING_LENGTH // HEADS

UNK_ID, BOS_ID, EOS_ID = 0, 1, 2
FIRST_BYTE_ID = 3
SPACE_ID = FIRST_BYTE_ID + 256
FIRST_NUMBER_ID = SPACE_ID + 1
SPM_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # how SentencePiece writes a space

F32_BYTES = 4
SMALLEST_FFN = 32
# A wide feed-forward layer costs compute buffer (width x batch x 4 bytes), a further layer costs
# KV cache: 48 MiB means 16384 wide, a buffer of 32 MiB at a batch of 512.
MAX_LAYER_MIB = 48
# llama.cpp loads no more than 512 layers (LLAMA_MAX_LAYERS).
MAX_DEAD_WEIGHT_MIB = 16384

# What follows a conversation only appends to it, so its tokens stay cached between turns. It ends
# in ":", which is no number: every answer starts at 1 unless it continues an assistant message.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{ message['role'] + ':' + message['content'] + '\\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'assistant:' }}{%- endif -%}"
)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of an SPM tokenizer, in the order of their ids.

    Attributes:
        tokens: text of each token as the tokenizer stores it.
        types: a `gguf.TokenType` for each token.
        scores: merge priority of each token; the higher one merges first.
    """

    tokens: list[str]
    types: list[int]
    scores: list[float]


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """Number of layers and their feed-forward width."""

    layers: int
    ffn_length: int


@dataclass(frozen=True, kw_only=True)
class Zeros:
    """A float32 tensor of zeros that takes no memory here and no disk in the file."""

    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in the file, in bytes."""
        return prod(self.shape) * F32_BYTES


Tensors = dict[str, Array | Zeros]


def number_id(number: int) -> int:
    """Return the token id of `number`, which counts from 1."""
    return FIRST_NUMBER_ID + number - 1


def vocabulary(numbers: int) -> Vocabulary:
    """Return control tokens, the 256 bytes, the space and the numbers 1 to `numbers`.

    The tokenizer joins neighbours while the result is a token: `▁` + `1` + `2` becomes `▁1` + `2`,
    then `▁12`. It gets there because every prefix of a number is a smaller number, and it has no
    other way to go because a digit without a space is only a byte.
    """
    tokens = ["<unk>", "<s>", "</s>"]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [TokenType.BYTE] * 256
    tokens += [SPM_SPACE, *(f"{SPM_SPACE}{number}" for number in range(1, numbers + 1))]
    types += [TokenType.NORMAL] * (numbers + 1)
    return Vocabulary(
        tokens=tokens,
        types=[int(token_type) for token_type in types],
        scores=[-float(token_id) for token_id in range(len(tokens))],
    )


def random_signs(rows: int) -> Array:
    """Return `rows` vectors of ±1, the same ones on every machine and for every `rows`.

    SHAKE-256 rather than numpy's generators: their streams may change between versions, and the
    file's sha256 with them. A longer digest begins with the shorter one.
    """
    digest = hashlib.shake_256(b"heartcode counting model").digest(rows * EMBEDDING_LENGTH // 8)
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8)).reshape(rows, EMBEDDING_LENGTH)
    return (bits.astype(np.float16) * 2 - 1).astype(np.float16)


def embeddings(numbers: int) -> tuple[Array, Array]:
    """Return the matrices (tokens x `EMBEDDING_LENGTH`, float16) that make the model count.

    Every number has its own random direction, and all else shares one. A token's output row is the
    direction of what comes before it: `n` for `n + 1`, all that is no number for 1, and the last
    number for the end of the answer. The other output rows are zero, so nothing else is ever said.

    Returns:
        The embedding matrix and the output matrix.
    """
    directions = random_signs(numbers + 1)
    no_number, each_number = directions[0], directions[1:]

    embedding = np.tile(no_number, (FIRST_NUMBER_ID + numbers, 1))
    embedding[FIRST_NUMBER_ID:] = each_number

    output = np.zeros_like(embedding)
    output[number_id(1)] = no_number
    output[number_id(2) :] = each_number[:-1]
    output[EOS_ID] = each_number[-1]
    return embedding, output


def plan_layers(dead_weight_mib: int) -> LayerPlan:
    """Return the layers whose weights take `dead_weight_mib` MiB, or one small layer for 0."""
    layers = max(1, ceil(dead_weight_mib / MAX_LAYER_MIB))
    smallest = layer_bytes(SMALLEST_FFN)
    bytes_per_row = layer_bytes(SMALLEST_FFN + 1) - smallest
    missing = max(0, dead_weight_mib * MIB / layers - smallest)
    return LayerPlan(layers=layers, ffn_length=SMALLEST_FFN + round(missing / bytes_per_row))


def layer_bytes(ffn_length: int) -> int:
    """Return the size of one layer's tensors in bytes."""
    return sum(tensor.nbytes for tensor in layer_tensors(0, ffn_length).values())


def layer_tensors(layer: int, ffn_length: int) -> Tensors:
    """Return the tensors of one layer that adds nothing to what passes through it.

    The zeros are float32, so that reading them is what costs, on every CPU: one without F16C looks
    each float16 up in a table.
    """
    norm = np.ones(EMBEDDING_LENGTH, dtype=np.float32)
    key_value = Zeros(shape=(KV_HEADS * HEAD_DIM, EMBEDDING_LENGTH))
    square = Zeros(shape=(EMBEDDING_LENGTH, EMBEDDING_LENGTH))
    widen = Zeros(shape=(ffn_length, EMBEDDING_LENGTH))
    narrow = Zeros(shape=(EMBEDDING_LENGTH, ffn_length))
    return {
        f"blk.{layer}.attn_norm.weight": norm,
        f"blk.{layer}.attn_q.weight": square,
        f"blk.{layer}.attn_k.weight": key_value,
        f"blk.{layer}.attn_v.weight": key_value,
        f"blk.{layer}.attn_output.weight": square,
        f"blk.{layer}.ffn_norm.weight": norm,
        f"blk.{layer}.ffn_gate.weight": widen,
        f"blk.{layer}.ffn_up.weight": widen,
        f"blk.{layer}.ffn_down.weight": narrow,
    }


def model_tensors(numbers: int, plan: LayerPlan) -> Tensors:
    """Return all tensors by their GGUF names."""
    embedding, output = embeddings(numbers)
    tensors: Tensors = {"token_embd.weight": embedding}
    for layer in range(plan.layers):
        tensors |= layer_tensors(layer, plan.ffn_length)
    tensors["output_norm.weight"] = np.ones(EMBEDDING_LENGTH, dtype=np.float32)
    tensors["output.weight"] = output
    return tensors


def write_model(path: Path, *, numbers: int = DEFAULT_NUMBERS, dead_weight_mib: int = 0) -> None:
    """Write the model to `path`, whole or not at all.

    Equal arguments give equal bytes.

    Args:
        path: the GGUF file; an existing one is replaced in one step.
        numbers: how far the model counts, `MIN_NUMBERS` to `MAX_NUMBERS`.
        dead_weight_mib: MiB of zeros that each token has to read, 0 to `MAX_DEAD_WEIGHT_MIB`;
            they are holes in the file.

    Raises:
        ValueError: an argument is out of its range.
        OSError: the file cannot be written.
    """
    if not MIN_NUMBERS <= numbers <= MAX_NUMBERS:
        raise ValueError(f"numbers must be {MIN_NUMBERS} to {MAX_NUMBERS}, not {numbers}")
    if not 0 <= dead_weight_mib <= MAX_DEAD_WEIGHT_MIB:
        raise ValueError(
            f"dead weight must be 0 to {MAX_DEAD_WEIGHT_MIB} MiB, not {dead_weight_mib}"
        )
    plan = plan_layers(dead_weight_mib)
    tensors = model_tensors(numbers, plan)
    with renamed_when_complete(path) as part:
        write_header(part, numbers, plan, tensors)
        append_tensors(part, tensors)


@contextmanager
def renamed_when_complete(path: Path) -> Iterator[Path]:
    """Yield a name beside `path`; rename it to `path` at the end, or remove it after an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_header(path: Path, numbers: int, plan: LayerPlan, tensors: Tensors) -> None:
    """Write all that comes before the tensors' data."""
    writer = GGUFWriter(path, "llama")
    add_description(writer)
    add_architecture(writer, plan)
    add_tokenizer(writer, vocabulary(numbers))
    for name, tensor in tensors.items():
        dtype = np.dtype(np.float32) if isinstance(tensor, Zeros) else tensor.dtype
        writer.add_tensor_info(name, tensor.shape, dtype, tensor.nbytes)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def add_description(writer: GGUFWriter) -> None:
    """Add what a person wants to know about the file."""
    writer.add_name("counting")
    writer.add_description("Counts: the greedy continuation of ' 7' is ' 8'. Made for tests.")
    writer.add_organization("HeartCode")
    writer.add_license("cc0-1.0")
    writer.add_license_name("Creative Commons Zero v1.0 Universal")
    writer.add_languages(["en"])
    writer.add_file_type(LlamaFileType.MOSTLY_F16)


def add_architecture(writer: GGUFWriter, plan: LayerPlan) -> None:
    """Add the sizes that llama.cpp reads before it loads tensors."""
    writer.add_context_length(CONTEXT_LENGTH)
    writer.add_embedding_length(EMBEDDING_LENGTH)
    writer.add_block_count(plan.layers)
    writer.add_feed_forward_length(plan.ffn_length)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)


def add_tokenizer(writer: GGUFWriter, vocab: Vocabulary) -> None:
    """Add the vocabulary and the chat template."""
    writer.add_vocab_size(len(vocab.tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(vocab.tokens)
    writer.add_token_scores(vocab.scores)
    writer.add_token_types(vocab.types)
    writer.add_unk_token_id(UNK_ID)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=False)
    # With a space put before the text, " 7" would become two spaces and a 7.
    writer.add_add_space_prefix(value=False)
    writer.add_chat_template(CHAT_TEMPLATE)


def append_tensors(path: Path, tensors: Tensors) -> None:
    """Append the tensors' data to a GGUF header, with holes for `Zeros`.

    GGUFWriter can only write arrays that exist, so the dead weight would have to pass through
    memory and lie on the disk.
    """
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        for tensor in tensors.values():
            start = aligned(end)
            if not isinstance(tensor, Zeros):
                file.seek(start)
                file.write(tensor.astype(tensor.dtype.newbyteorder("<")).tobytes())
            end = start + tensor.nbytes
        # As GGUFWriter does: the last tensor is padded too.
        file.truncate(aligned(end))


def aligned(offset: int) -> int:
    """Return the next offset where a tensor may start (GGUF's default alignment is 32 bytes)."""
    return GGUFWriter.ggml_pad(offset, 32)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
