"""What llama-server says about an answer when it is complete: tokens and times.

    usage = Usage.in_body(body)            # an answer that was read whole
    usage = Usage.in_stream(last_pieces)   # the end of a stream

Chat and text completions tell both; whole answers of /v1/messages and /v1/responses tell tokens
alone, and the end of a stream of /v1/messages tells nothing that could be used.

Only the last events are parsed: every event of a stream may carry `timings`, and reading them all
would cost more than relaying them. Where several answers were asked for (`n`), each ends in its own
time and tells of itself alone: `UsageOfChoices`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
        if isinstance(answer, list):  # of /completion, one for each of several
            return cls.of_all([cls.of(one) for one in answer])
        if not isinstance(answer, Mapping):
            return None
        found = cls._of_one(answer)
        return found and found.times(_choices_by_the_first(answer.get("choices")))

    @classmethod
    def of_all(cls, answers: Sequence[Usage | None]) -> Usage | None:
        """Return what several answers to one prompt took together; it was read for the first."""
        told = [answer for answer in answers if answer is not None]
        if not told:
            return None
        return replace(
            told[0],
            generated=sum(answer.generated for answer in told),
            decode_s=sum(answer.decode_s for answer in told),
        )

    def times(self, answers: float) -> Usage:
        """Return this for as many answers to the same prompt."""
        if answers == 1.0:
            return self
        return replace(self, generated=self.generated * answers, decode_s=self.decode_s * answers)

    @classmethod
    def _of_one(cls, answer: Mapping[str, Any]) -> Usage | None:
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
        if len(body) > _MAX_BODY_BYTES or not (b'"timings"' in body or b'"usage"' in body):
            return None
        return cls.of(_json(body))

    @classmethod
    def in_stream(cls, end: bytes) -> Usage | None:
        """Return what the end of a stream, complete events, tells; the last word counts."""
        for line in reversed(end.splitlines()[-3 * _LAST_EVENTS :]):
            tells = line.startswith(b"data:") and (b'"timings"' in line or b'"usage"' in line)
            if tells and (found := cls.of(_json(line[5:]))):
                return found
        return None


class UsageOfChoices:
    """Adds up what the answers in one stream tell, each at its end."""

    def __init__(self) -> None:
        self._found: list[Usage | None] = []

    def note(self, events: bytes) -> None:
        """Note complete events."""
        for line in events.splitlines():
            if line.startswith(b"data:") and b'"timings"' in line:
                event = _json(line[5:])
                if _is_an_end(event):
                    self._found.append(Usage.of(event))

    @property
    def usage(self) -> Usage | None:
        """What is known; None if nothing."""
        return Usage.of_all(self._found)


def _is_an_end(event: Any) -> bool:
    """Return whether an event with `timings` is the last one of an answer; any may have them."""
    if not isinstance(event, Mapping):
        return False
    if "stop" in event:
        return event["stop"] is True
    choices = event.get("choices")
    if not isinstance(choices, list):
        return False
    # With `stream_options.include_usage` they are in an event of their own.
    return not choices or (
        isinstance(choices[0], Mapping) and choices[0].get("finish_reason") is not None
    )


def _choices_by_the_first(choices: Any) -> float:
    """Return how long all choices of a whole answer are, by the length of the first.

    llama-server tells of that one's tokens alone; the others' are taken to be as long as its own.
    """
    lengths = [_length(choice) for choice in choices] if isinstance(choices, list) else []
    return sum(lengths) / lengths[0] if lengths and lengths[0] else 1.0


def _length(choice: Any) -> int:
    """Return how much text a choice has, in characters."""
    if not isinstance(choice, Mapping):
        return 0
    message = choice.get("message")
    texts = [choice.get("text")]
    if isinstance(message, Mapping):
        texts += [message.get("content"), message.get("reasoning_content")]
    return sum(len(text) for text in texts if isinstance(text, str))


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields.get(name)
    return float(value) if isinstance(value, int | float) and 0 < value < _ABSURD else 0.0
