"""Writes a GGUF of a known shape whose weights are holes, to compare plans with what happens.

llama.cpp loads it, allocates all that it would for the real model and generates nonsense. The file
takes a few MiB of disk until it is copied. Needs the ``gguf`` library, as the demo model does.
"""

import struct
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType
from heartcode_models.gguf.header import Tensor
from heartcode_models.planner.known_models import SHAPES, Shape, tensors

_CONTROL = ("<unk>", "<s>", "</s>")
_BYTES = 256


def write_synthetic(path: Path, size: str, quantisation: str) -> None:
    """Write the model `size` (a key of SHAPES) in `quantisation` to `path`."""
    shape = SHAPES[size]
    infos = list(tensors(shape, quantisation))
    metadata: dict[str, int | list[bool]] = {}
    if shape.experts:
        metadata |= {
            "expert_count": shape.experts,
            "expert_used_count": shape.experts_used,
            "expert_feed_forward_length": shape.n_ff,
        }
    write_zeros(path, shape.architecture, shape, quantisation, infos=infos, metadata=metadata)


def write_zeros(
    path: Path,
    architecture: str,
    shape: Shape,
    quantisation: str,
    *,
    infos: Sequence[Tensor],
    metadata: Mapping[str, int | list[bool]] | None = None,
) -> None:
    """Write a model of an architecture to `path`.

    Matrices are zeros, vectors are ones, so that neither norms nor rotations divide by zero.

    Args:
        path: Where to.
        architecture: As llama.cpp names it.
        shape: What its metadata say of it.
        quantisation: The same.
        infos: Its tensors.
        metadata: What else it says, without the architecture's name before it.
    """
    writer = GGUFWriter(path, architecture)
    _add_metadata(writer, shape, quantisation)
    for key, value in (metadata or {}).items():
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        else:
            writer.add_uint32(f"{architecture}.{key}", value)
    for tensor in infos:
        writer.add_tensor_info(
            tensor.name,
            tuple(reversed(tensor.sizes)),
            np.dtype(np.float32),
            tensor.nbytes,
            raw_dtype=GGMLQuantizationType[tensor.kind],
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    _append(path, infos)


def _append(path: Path, infos: Sequence[Tensor]) -> None:
    with path.open("r+b") as file:
        end = file.seek(0, 2)
        for tensor in infos:
            start = GGUFWriter.ggml_pad(end, 32)
            if tensor.kind == "F32":
                file.seek(start)
                file.write(struct.pack("<f", 1.0) * prod(tensor.sizes))
            end = start + tensor.nbytes
        file.truncate(GGUFWriter.ggml_pad(end, 32))


def _add_metadata(writer: GGUFWriter, shape: Shape, quantisation: str) -> None:
    writer.add_name(f"{shape.name} of zeros")
    writer.add_file_type(LlamaFileType[f"MOSTLY_{quantisation}"])
    writer.add_context_length(shape.n_ctx_train)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layers)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_dimension_count(shape.head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    fill = shape.n_vocab - len(_CONTROL) - _BYTES
    writer.add_tokenizer_model("llama")
    writer.add_token_list(
        [
            *_CONTROL,
            *(f"<0x{byte:02X}>" for byte in range(_BYTES)),
            *map("filler{}".format, range(fill)),
        ]
    )
    writer.add_token_scores([-float(token) for token in range(shape.n_vocab)])
    writer.add_token_types(
        [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL]
        + [TokenType.BYTE] * _BYTES
        + [TokenType.NORMAL] * fill
    )
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(
        "{%- for message in messages -%}{{ message['content'] }}{%- endfor -%}"
    )
