"""What a GGUF's header tells: whether one llama-server can load it, what its tokens take."""

from pathlib import Path

from heartcode_models.errors import ModelError
from heartcode_models.gguf.ggml_types import KV_TYPES
from heartcode_models.gguf.header import read_header
from heartcode_models.gguf.read_model import model_of
from heartcode_models.planner.vram import kv_bytes_per_token


def check_gguf(path: Path) -> None:
    """Read a file's header and compare its size with what its tensors need.

    Raises:
        ModelError: it cannot be read, is no GGUF, is truncated or only a part of a model.
    """
    header = read_header(str(path))
    if not header.tensors:
        raise ModelError(f"{path} holds a vocabulary and no weights; it is no whole model")
    parts = header.metadata.get("split.count", 1)
    if isinstance(parts, int) and parts > 1:
        raise ModelError(f"{path} is one of {parts} parts; join them with llama-gguf-split first")


def kv_bytes(path: Path, kv_type: str) -> int:
    """Bytes that one token of a conversation takes in a llama-server's K and V caches.

    Raises:
        ModelError: the file cannot be read, its KV cache is none of the plain kind, or there is no
            such type.
    """
    if kv_type not in KV_TYPES:
        raise ModelError(f"a KV cache's type is one of {', '.join(KV_TYPES)}, not '{kv_type}'")
    return kv_bytes_per_token(model_of(read_header(str(path))), kv_type)
