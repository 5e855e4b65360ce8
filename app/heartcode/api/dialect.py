"""Which API a client speaks, by the path that it asks for, and how that API tells an error."""

from __future__ import annotations

import re
from enum import Enum
from typing import Any

from heartcode.errors import ApiError
from heartcode.relay import sse
from heartcode.relay.client_stream import openai_error_event

# What begins so is Anthropic's also where nothing is served, as its batches.
_ANTHROPIC_PATH = re.compile("/v1/messages(/|$)")


class Dialect(Enum):
    """An API, as its client libraries know it.

    The value is the header in which its answers name the request beside `X-Request-Id`, if any.
    """

    OPENAI = ""
    ANTHROPIC = "Request-Id"

    @classmethod
    def of(cls, path: str) -> Dialect:
        """Return the API that `path` belongs to; llama-server's own tells errors as OpenAI's."""
        return cls.ANTHROPIC if _ANTHROPIC_PATH.match(path) else cls.OPENAI

    def error_body(self, error: ApiError, request_id: str) -> dict[str, Any]:
        """Return the JSON body of an answer that is an error."""
        return error.anthropic_body(request_id) if self is Dialect.ANTHROPIC else error.body()

    def error_event(self, error: ApiError, request_id: str) -> bytes:
        """Return the last event of a stream that fails."""
        if self is Dialect.ANTHROPIC:
            return sse.named_event("error", error.anthropic_body(request_id))
        return openai_error_event(error)
