"""Makes what another backend goes on with a part of the answer that the first one began.

No sockets here: bytes and JSON in, bytes and JSON out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from heartcode.relay import sse
from heartcode.upstream.usage import Usage


class SpliceError(Exception):
    """The next backend does not go on where the last one ended."""


class Splice:
    """Rewrites the events of a backend that goes on with an answer, so that it stays one answer.

    A chat is continued by a completion, whose events become those of a chat.

    `usage` is right for the whole: the text so far, which the backend has counted to its prompt,
    counts as generated. `timings` tell of the last backend's speed; its number of tokens is that of
    the whole, and the time is what they take at that speed.

    Args:
        head: what all events of the answer have in common.
        is_chat: whether the client has asked for a chat.
        tells_usage: whether a chat's client has asked for `usage`; a completion's always gets it.
        text: what has been generated so far.
        tokens: how many tokens that was.
        limits: how long the client allowed the whole answer to be.
        is_spent: whether nothing of that was left.
    """

    def __init__(
        self,
        *,
        head: Mapping[str, Any],
        is_chat: bool,
        tells_usage: bool,
        text: str,
        tokens: int,
        limits: Mapping[str, int],
        is_spent: bool,
    ) -> None:
        self._head = head
        self._is_chat = is_chat
        self._tells_usage = tells_usage
        self._text = text
        self._limits = limits
        self._tokens = tokens
        self._is_spent = is_spent

    def rewrite(self, events: bytes) -> bytes:
        """Return what the client gets of complete `events`; may be nothing.

        Raises:
            SpliceError: when it is no continuation.
        """
        try:
            return b"".join(
                self._rewritten(event) for event in events.split(sse.EVENT_END) if event
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise SpliceError("an event of an unknown shape") from error

    def _rewritten(self, event: bytes) -> bytes:
        if event == sse.DONE or event.startswith(b":"):
            return event + sse.EVENT_END
        payload = sse.payload(event)
        if payload is None:
            raise SpliceError("an event that is not JSON")
        payload.update((name, value) for name, value in self._head.items() if name in payload)
        self._count(payload)
        if "stop" in payload:
            return sse.data_event(payload) if self._spliced_native(payload) else b""
        choices = payload.get("choices")
        if choices and not self._says_something(choices[0]):
            return b""
        if self._is_chat:
            return b"".join(map(sse.data_event, self._as_chat(payload)))
        return sse.data_event(payload)

    def _spliced_native(self, payload: dict[str, Any]) -> bool:
        """Make an event of the native endpoint one of the whole; return whether it counts."""
        is_final = payload["stop"] is True
        if self._is_spent:
            if not is_final:
                return False
            payload["stop_type"] = "limit"
        payload["tokens_predicted"] += self._tokens - self._dropped
        payload["tokens_evaluated"] = max(0, payload["tokens_evaluated"] - self._tokens)
        if is_final:
            payload["prompt"] = payload["prompt"].removesuffix(self._text)
            # llama-server calls its one limit by two names.
            limit = self._limits.get("n_predict", self._limits.get("max_tokens"))
            if limit is not None:
                payload["generation_settings"] |= {"n_predict": limit, "max_tokens": limit}
        return True

    def _says_something(self, choice: dict[str, Any]) -> bool:
        """Make `choice` one of the whole; return whether it says anything."""
        is_final = choice.get("finish_reason") is not None
        if self._is_spent:
            choice["text"] = ""
            if is_final:
                choice["finish_reason"] = "length"
        if "delta" in choice:  # of a chat that begins again, as nothing of it had been said
            choice["delta"].pop("role", None)
        return is_final or bool(choice.get("text") or choice.get("delta"))

    def _as_chat(self, payload: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the events in which llama-server would say the same of a chat."""
        payload["object"] = "chat.completion.chunk"
        payload["choices"] = [_chat_choice(choice) for choice in payload["choices"]]
        usage = payload.pop("usage", None)
        if usage is None or not self._tells_usage:
            yield payload
            return
        timings = payload.pop("timings", None)
        if payload["choices"]:
            yield payload
        last = {**payload, "choices": [], "usage": usage}
        yield last if timings is None else {**last, "timings": timings}

    def _count(self, payload: Mapping[str, Any]) -> None:
        usage, timings = payload.get("usage"), payload.get("timings")
        if usage:
            usage["prompt_tokens"] = max(0, usage["prompt_tokens"] - self._tokens)
            usage["completion_tokens"] += self._tokens - self._dropped
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
            details = usage.get("prompt_tokens_details")
            if details and "cached_tokens" in details:
                details["cached_tokens"] = min(details["cached_tokens"], usage["prompt_tokens"])
        if timings and timings.get("predicted_n"):
            whole = timings["predicted_n"] + self._tokens - self._dropped
            timings["predicted_ms"] *= whole / timings["predicted_n"]
            timings["predicted_n"] = whole

    @property
    def _dropped(self) -> int:
        # With nothing left to generate a backend still generates one token, which is dropped.
        return 1 if self._is_spent else 0

    def whole(self, usage: Usage) -> Usage:
        """Return the tokens of the whole answer, made of what the last backend told of its part."""
        prompt = max(0.0, usage.evaluated + usage.cached - self._tokens)
        cached = min(usage.cached, prompt)
        generated = usage.generated + self._tokens - self._dropped
        return replace(usage, evaluated=prompt - cached, cached=cached, generated=generated)


def _chat_choice(choice: dict[str, Any]) -> dict[str, Any]:
    """Return a completion's choice as that of a chat, in llama-server's order."""
    if "delta" in choice:
        return choice
    delta = {"content": choice["text"]} if choice["text"] else {}
    return {"finish_reason": choice["finish_reason"], "index": choice["index"], "delta": delta}
