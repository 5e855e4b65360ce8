"""How large the KV cache of each layer is.

Source: the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098).
"""

from heartcode_models.gguf.kv_cache import kv_bytes_of_layer
from heartcode_models.gguf.model import Model
from heartcode_models.planner.settings import Settings

#: Steps of a cache of windows (``GGML_PAD``, src/llama-kv-cache-iswa.cpp).
_CELLS_STEP = 256


def window_cells(model: Model, settings: Settings) -> int:
    """Tokens of one slot that a cache has room for where a layer looks back over a window only.

    The window and a ubatch, in steps of 256: ``size_swa`` in ``llama_kv_cache_iswa``,
    src/llama-kv-cache-iswa.cpp.
    """
    window = model.sliding_window + min(settings.n_ubatch, settings.n_batch)
    return -(-min(settings.ctx_per_slot, window) // _CELLS_STEP) * _CELLS_STEP


def cells(model: Model, settings: Settings, layer: int) -> int:
    """Tokens of one slot that a layer's cache has room for."""
    if not model.has_window(layer):
        return settings.ctx_per_slot
    return window_cells(model, settings)


def kv_of_layer(model: Model, settings: Settings, layer: int) -> int:
    """Bytes of a layer's K and V of all slots; the output, one layer more, has none."""
    if layer == model.n_layers:
        return 0
    each = kv_bytes_of_layer(model, settings.kv_type, layer)
    return each * cells(model, settings, layer) * settings.slots


def kv_of(model: Model, settings: Settings, layers: range) -> int:
    """Bytes of the KV cache of `layers`: each slot is a stream with its own context."""
    return sum(kv_of_layer(model, settings, layer) for layer in layers)
