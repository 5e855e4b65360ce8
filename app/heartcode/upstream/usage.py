"""What llama-server says about an answer when it is complete: tokens and times.

    usage = Usage.in_body(body)            # an answer that was read whole
    usage = Usage.in_stream(last_pieces)   # the end of a stream

Chat and text completions tell both; whole answers of /v1/messages and /v1/responses tell tokens
alone, and the end of a stream of /v1/messages tells nothing that could be used.

Only the last events are parsed: every event of a stream may carry `timings`, and reading them all
would cost more than relaying them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The last ones are: the finish reason, the usage, [DONE]; /v1/responses ends with more of them.
_LAST_EVENTS = 4
# Larger answers (embeddings, log probabilities) are not worth parsing for this.
_MAX_BODY_BYTES = 1024 * 1024
_ABSURD = 1e12
_COMPLETIONS = ("prompt", "completion")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one answer, and seconds where they were told.

    Attributes:
        evaluated: prompt tokens that were computed.
        cached: prompt tokens that came from the cache.
        generated: tokens of the answer.
        prompt_s: seconds for `evaluated`; 0 if unknown.
        decode_s: seconds for `generated`; 0 if unknown.
    """

    evaluated: float
    cached: float
    generated: float
    prompt_s: float = 0.0
    decode_s: float = 0.0

    @classmethod
    def of(cls, answer: Any) -> Usage | None:
        """Return what a JSON answer or event tells, or None if it tells nothing."""
        if not isinstance(answer, Mapping):
            return None
        timings, usage = answer.get("timings"), answer.get("usage")
        if isinstance(timings, Mapping):
            return cls(
                evaluated=_number(timings, "prompt_n"),
                cached=_number(timings, "cache_n"),
                generated=_number(timings, "predicted_n"),
                prompt_s=_number(timings, "prompt_ms") / 1000,
                decode_s=_number(timings, "predicted_ms") / 1000,
            )
        return cls._of_usage(usage) if isinstance(usage, Mapping) else None

    @classmethod
    def _of_usage(cls, usage: Mapping[str, Any]) -> Usage | None:
        """Read the counts of chat and text completions, of responses, or of messages."""
        if "cache_read_input_tokens" in usage:  # Anthropic's: the input is without the cached
            return cls(
                evaluated=_number(usage, "input_tokens"),
                cached=_number(usage, "cache_read_input_tokens"),
                generated=_number(usage, "output_tokens"),
            )
        prompt, answer = ("input", "output") if "input_tokens" in usage else _COMPLETIONS
        if f"{prompt}_tokens" not in usage:
            return None
        details = usage.get(f"{prompt}_tokens_details")
        cached = _number(details, "cached_tokens") if isinstance(details, Mapping) else 0.0
        return cls(
            evaluated=max(0.0, _number(usage, f"{prompt}_tokens") - cached),
            cached=cached,
            generated=_number(usage, f"{answer}_tokens"),
        )

    @classmethod
    def in_body(cls, body: bytes) -> Usage | None:
        """Return what a whole answer tells."""
        return cls.of(_json(body)) if len(body) <= _MAX_BODY_BYTES else None

    @classmethod
    def in_stream(cls, end: bytes) -> Usage | None:
        """Return what the end of a stream, complete events, tells; the last word counts."""
        for line in reversed(end.splitlines()[-3 * _LAST_EVENTS :]):
            tells = line.startswith(b"data:") and (b'"timings"' in line or b'"usage"' in line)
            if tells and (found := cls.of(_json(line[5:]))):
                return found
        return None


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    return float(value) if isinstance(value, int | float) and 0 < value < _ABSURD else 0.0
