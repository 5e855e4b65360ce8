"""How much of a KV cache one token takes.

Source: the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098).
"""

from pathlib import Path

from heartcode_models.errors import ModelError
from heartcode_models.gguf.ggml_types import BY_NAME, KV_TYPES, row_bytes
from heartcode_models.gguf.header import read_header
from heartcode_models.gguf.model import Model
from heartcode_models.gguf.read_model import model_of


def kv_bytes_per_token(model: Model, kv_type: str, first_layer: int = 0) -> int:
    """Bytes that one token takes in the K and V caches of the layers from `first_layer` on.

    Each layer has a K and a V tensor of ``n_embd_k_gqa`` × cells × streams: key/value heads × their
    width, in the cache's type (q8_0: 34 bytes for 32 values, q4_0: 18).
    Source: ``llama_kv_cache::llama_kv_cache``, src/llama-kv-cache.cpp.
    """
    kind = BY_NAME[kv_type.upper()]
    return sum(
        row_bytes(kind, heads * model.head_k) + row_bytes(kind, heads * model.head_v)
        for heads in model.kv_heads[first_layer:]
    )


def kv_bytes_per_token_of(path: Path, kv_type: str) -> int:
    """Bytes that one token of a conversation takes in a llama-server's K and V caches.

    Raises:
        ModelError: the file cannot be read, its KV cache is none of the plain kind, or there is no
            such type.
    """
    if kv_type not in KV_TYPES:
        raise ModelError(f"a KV cache's type is one of {', '.join(KV_TYPES)}, not '{kv_type}'")
    return kv_bytes_per_token(model_of(read_header(str(path))), kv_type)
