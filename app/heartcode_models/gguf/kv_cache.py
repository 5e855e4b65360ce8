"""How much of a KV cache one token takes.

Source: the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098).
"""

from heartcode_models.gguf.ggml_types import BY_NAME, row_bytes
from heartcode_models.gguf.model import Model


def kv_bytes_of_layer(model: Model, kv_type: str, layer: int) -> int:
    """Bytes that one token takes in the K and V caches of a layer.

    A layer has a K and a V tensor of ``n_embd_k_gqa`` × cells × streams: key/value heads × their
    width, in the cache's type (q8_0: 34 bytes for 32 values, q4_0: 18).
    Source: ``llama_kv_cache::llama_kv_cache``, src/llama-kv-cache.cpp.
    """
    kind = BY_NAME[kv_type.upper()]
    return sum(row_bytes(kind, width) for width in model.kv_width(layer))


def kv_bytes_per_token(model: Model, kv_type: str, first_layer: int = 0) -> int:
    """Bytes that one token takes in the K and V caches of the layers from `first_layer` on.

    Of layers with a window too: a conversation shorter than that is in them whole. Source:
    ``llama_kv_cache::llama_kv_cache``, src/llama-kv-cache.cpp.
    """
    return sum(
        kv_bytes_of_layer(model, kv_type, layer) for layer in range(first_layer, model.n_layers)
    )
