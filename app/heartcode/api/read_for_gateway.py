"""Reading a body for the gateway, which has no time for one of many small parts.

nginx serves everybody in one loop, and its JavaScript reads no more of a body than what fits into a
few milliseconds (docs/adr/0017). Where that was not all, and models are to choose from, it asks any
rig, which has to read each body anyway, what routing needs. The answer is in headers and is a 403:
nginx sees no other part of an answer, and that status is held against no rig.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from heartcode.errors import ApiError

#: What the gateway's request_info.OVERFLOW_HEADER says then.
WANTED = "read"
#: `model` as JSON, with % for what no header may have; without it the body has none.
MODEL_HEADER = "X-HeartCode-Model"
#: SHA-256 of `prompt_cache_key`, as hexadecimal digits.
CACHE_KEY_HEADER = "X-HeartCode-Cache-Key"

# What nginx takes of headers is 4 KiB; no model has such a name.
_LONGEST_MODEL = 1024


def told(fields: Mapping[str, Any]) -> ApiError:
    """Return what the gateway is answered about a body with these fields."""
    headers = {}
    if "model" in fields:
        named = json.dumps(fields["model"], ensure_ascii=False)
        model = quote(named[: _LONGEST_MODEL + 1])  # of a longer one no more is needed
        if len(model) > _LONGEST_MODEL:
            message = f"The model {named[:200]} does not exist."
            return ApiError(404, message, code="model_not_found", param="model")
        headers[MODEL_HEADER] = model
    key = fields.get("prompt_cache_key")
    if isinstance(key, str) and key:
        headers[CACHE_KEY_HEADER] = sha256(key.encode()).hexdigest()
    return ApiError(403, "the body was read for the gateway", code="body_read", headers=headers)
