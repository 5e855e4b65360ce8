"""A refusal of a prompt that is too long for its backend; another one may have a larger context.

llama-server answers it with 400 and says how long prompt and context are (server-task.cpp,
server_task_result_error::to_json).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from heartcode.relay.buffered import WholeAnswer
from heartcode.routing.room import TOO_LONG


def prompt_tokens(answer: WholeAnswer) -> int:
    """Return the length of the prompt if `answer` says that it is too long, else 0."""
    tokens = _error(answer).get("n_prompt_tokens")
    return tokens if isinstance(tokens, int) and tokens > 0 else 0


def with_context(answer: WholeAnswer, n_ctx: int) -> WholeAnswer:
    """Return the refusal with the largest context that there is, for the client to fit in."""
    error = _error(answer)
    own = error.get("n_ctx")
    if isinstance(own, int) and own < n_ctx <= prompt_tokens(answer):
        message = str(error.get("message", "")).replace(f"({own} tokens)", f"({n_ctx} tokens)")
        told = {**error, "message": message, "n_ctx": n_ctx}
        answer.body = json.dumps({"error": told}, separators=(",", ":")).encode()
    return answer


def _error(answer: WholeAnswer) -> Mapping[str, Any]:
    if answer.status == HTTPStatus.BAD_REQUEST and TOO_LONG.encode() in answer.body:
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            error = json.loads(answer.body)["error"]
            if isinstance(error, dict) and error.get("type") == TOO_LONG:
                return error
    return {}
