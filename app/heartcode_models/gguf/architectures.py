"""Which architectures the planner knows, and which of their layers see how much of a context.

Source: ``load_arch_hparams`` of each in src/models/ of the pinned llama.cpp (ggml-org/llama.cpp
0c1e57098). What is not listed here may keep other things than K and V of each token, so it is
refused by its name. tests/integration/test_plan_measured.py compares each with a llama-server.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How an architecture's attention differs from a Llama's.

    Attributes:
        window_every: Of so many layers all but the last look back over a window only, where the
            file has no pattern of its own (``load_swa_pattern``). 0: llama.cpp gives it no windows,
            whatever the file says.
        window: The window where the file names none; 0 if it has to.
        own_kv: So many layers from the start have K and V of their own, the others look at theirs
            (``n_layer_kv_from_start``); None for all, unless the file says otherwise.
        streams: Residual streams side by side (``n_altup``, src/llama-hparams.h).
        per_layer: Width of each layer's own embeddings where the file names none
            (``n_embd_altup``, the same).
    """

    window_every: int = 0
    window: int = 0
    own_kv: int | None = None
    streams: int = 1
    per_layer: int = 0


_LIKE_LLAMA = Architecture()

#: By the name in ``general.architecture``. Mistral, Nemo and Mixtral are written as Llamas.
ARCHITECTURES = {
    "llama": _LIKE_LLAMA,
    "mistral3": _LIKE_LLAMA,
    "qwen2": _LIKE_LLAMA,
    "qwen2moe": _LIKE_LLAMA,
    "qwen3": _LIKE_LLAMA,
    "qwen3moe": _LIKE_LLAMA,
    "gemma": _LIKE_LLAMA,
    "gemma2": Architecture(window_every=2, window=4096),
    "gemma3": Architecture(window_every=6),
    "gemma3n": Architecture(window_every=5, own_kv=20, streams=4, per_layer=256),
    "gemma4": Architecture(window_every=6),
    # Its windows are switched off (src/models/phi3.cpp).
    "phi3": _LIKE_LLAMA,
    "phimoe": _LIKE_LLAMA,
    "gpt-oss": Architecture(window_every=2),
}
