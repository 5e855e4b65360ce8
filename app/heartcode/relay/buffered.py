"""Whole answers: one that came as such, and one that is made of a stream.

llama-server looks for the client of an answer that is not streamed only in a second without any
result of any slot: while others are served, never. So the proxy asks for a stream, of which it can
hang up at every token, and gives the client what llama-server would have given
(docs/adr/0008-whole-answers-are-asked-for-as-streams.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from heartcode.errors import ApiError
from heartcode.fields import Fields
from heartcode.relay import sse
from heartcode.relay.continuation import CHAT
from heartcode.relay.token_times import TokenTimes
from heartcode.upstream import progress
from heartcode.upstream.exchange import Exchange
from heartcode.upstream.usage import Usage

# Guards the proxy's memory against a backend that has gone wrong.
MAX_HELD_BYTES = 64 * 1024 * 1024

CONTENT_TYPE = "application/json; charset=utf-8"  # llama-server's

# In llama-server's order; whatever else it says follows.
_FIELDS = ("created", "model", "system_fingerprint", "object", "usage", "id", "timings")


class WholeAnswer:
    """An answer that is no stream; it was read to its end, and the backend is free again.

    Attributes:
        status, content_type, body: the answer.
        usage: what it tells of tokens and times.
        is_agreed_on: whether it is a refusal that another backend gave word for word before.
        resumes, token_times: as of a stream: none and nothing.
    """

    resumes = 0
    is_agreed_on = False

    def __init__(self, exchange: Exchange) -> None:
        self.token_times = TokenTimes()
        self.status = exchange.status
        self.content_type = exchange.content_type
        self.body = exchange.read_all(MAX_HELD_BYTES)
        self.usage = Usage.in_body(self.body)

    @property
    def is_json(self) -> bool:
        """Whether clients of this API can read it."""
        return self.content_type.startswith("application/json")

    def says_the_same_as(self, other: WholeAnswer) -> bool:
        """Whether both refuse the request with the same words: then it is the request."""
        return (self.status, self.body) == (other.status, other.body)

    def as_error(self) -> ApiError:
        """Return what it says as an error, for a client that gets it in another form."""
        try:
            error = json.loads(self.body)["error"]
            return ApiError(self.status, str(error["message"]), code=str(error["type"]))
        except (ValueError, LookupError, TypeError):
            message = f"the backend answered {self.status}"
            return ApiError(502, message, code="backend_failed")

    def close(self) -> None:
        """Do nothing: nothing is held."""


def as_stream(path: str, fields: Fields) -> bytes:
    """Return the body of the request to `path` that asks for the same answer as a stream."""
    options: dict[str, Any] = {
        "stream": True,
        "stream_options": {"include_usage": True},
        progress.FIELD: True,
    }
    if path == CHAT and fields["messages"][-1].get("role") == "assistant":
        # What the client has begun belongs to the whole answer. Versions from autumn 2026 on repeat
        # it in a stream only so; those before do not know the field.
        options["echo"] = True
    return fields.encoded(**options)


def answer(text: str, last_events: bytes) -> bytes | None:
    """Return the body of the whole answer; None if `last_events` lack the end of the stream.

    Args:
        text: all of the answer's text.
        last_events: the end of the stream, with the finish reason, `usage` and `timings`.
    """
    native = [payload for payload in sse.payloads(last_events) if payload.get("stop") is True]
    if native:
        return _json(_native(text, native[-1]))
    final: dict[str, Any] = {}
    choice: dict[str, Any] | None = None
    for payload in sse.payloads(last_events):
        choices = payload.get("choices")
        if choices and choices[0].get("finish_reason") is not None:
            choice = choices[0]
        if choice is not None:
            final |= payload
    if choice is None or "usage" not in final:
        return None
    if "delta" in choice:
        message = {"role": "assistant", "content": text}
        choice = {"finish_reason": choice["finish_reason"], "index": 0, "message": message}
        final["object"] = "chat.completion"
    else:
        choice = {**choice, "text": text}
    final["choices"] = [choice]
    whole = {name: final[name] for name in ("choices", *_FIELDS, *final) if name in final}
    return _json(whole)


def _native(text: str, last: Mapping[str, Any]) -> dict[str, Any]:
    """Return the whole answer of llama-server's own /completion: its last event, with the text."""
    settings = {**last["generation_settings"], "stream": False}
    return {**last, "content": text, "generation_settings": settings}


def _json(whole: Mapping[str, Any]) -> bytes:
    return json.dumps(whole, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
