"""What a saved state belongs to: it is restored into nothing else.

    key = state_key(identity, kv_cache="q8_0 on")

The model's file, by its samples; the context of one conversation; and the type of K and V with the
kind of attention, as the backend's unit tells. The format of the state has a number in the file,
which llama-server compares itself, as it does the types (llama.cpp, src/llama-context.cpp,
state_seq_load_file; src/llama-kv-cache.cpp, state_read_data): a build with another format refuses.
"""

from __future__ import annotations

import json
from hashlib import blake2b

from heartcode.upstream.identity import Identity

_KEY_BYTES = 16


def state_key(identity: Identity, *, kv_cache: str) -> str:
    """Return the key of the states of a backend that serves `identity`; "" where it is not sure."""
    told = identity.told
    # Without them it is known by its path and time, and may have been replaced.
    if not identity.samples or not told.n_ctx:
        return ""
    parts = [identity.samples, told.ftype, told.parameters, told.size, told.n_ctx, kv_cache]
    return blake2b(json.dumps(parts).encode(), digest_size=_KEY_BYTES).hexdigest()
