"""How far llama-server has read a prompt: it tells at every batch, if it is asked to.

The proxy asks in any case. llama-server looks for its peer when it writes, and while others are
served at no other time (docs/adr/0008-whole-answers-are-asked-for-as-streams.md), so that without a
word to write it would read a long prompt to its end for a client that has left.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

FIELD = "return_progress"

_MARK = b'"prompt_progress":'
_TOTAL = re.compile(rb'"prompt_progress":\{"total":(\d{1,9})\b')
_ROLE = b'"delta":{"role":'
_EVENT_END = b"\n\n"


def is_asked_for(fields: Mapping[str, Any]) -> bool:
    """Return whether the client wants to be told."""
    return bool(fields.get(FIELD))


def asked_for(body: bytes) -> bytes:
    """Return `body`, a JSON object with fields, that asks; its other bytes stay as they are."""
    return body.replace(b"{", b'{"return_progress":true,', 1)


def total(events: bytes) -> int:
    """Return how many tokens the prompt has of which `events` tell the progress; 0 if none do."""
    found = _TOTAL.search(events)
    return int(found[1]) if found else 0


class Reading:
    """The events that come while a prompt is read, sorted out.

    Before the first token llama-server tells of its progress, and says in chats that an assistant
    speaks, once for each of these events. Along with the first one it sends what the prompt already
    has of the answer: the thoughts that a template opens, and what the client has begun itself.
    That is text.

    Attributes:
        opening: that text.
    """

    def __init__(self) -> None:
        self.opening = ""
        self._role_is_out = False

    def sorted_out(self, events: bytes) -> tuple[bytes, bool]:
        """Return what of complete `events` is not about progress, and whether a token is in it."""
        kept: list[bytes] = []
        has_token = False
        for event in events.split(_EVENT_END):
            if has_token or not (_MARK in event or _ROLE in event):
                kept.append(event)
                has_token = has_token or bool(event)
                continue
            rest, is_token = self._without_progress(event)
            if rest:
                kept.append(rest)
            has_token = has_token or is_token
        said = _EVENT_END.join(event for event in kept if event)
        return said + _EVENT_END if said else b"", has_token

    def _without_progress(self, event: bytes) -> tuple[bytes, bool]:
        """Return an event without what only progress makes it say, and whether it is a token."""
        try:
            payload = json.loads(event.removeprefix(b"data:"))
            tells_progress = payload.pop("prompt_progress", None) is not None
            choice = (payload.get("choices") or [{}])[0]
            delta = choice.get("delta") or {}
            told_role = delta.get("role") is not None
            says = {**delta, "text": choice.get("text"), "native": payload.get("content")}
            says.pop("role", None)
            text = any(said not in (None, "", [], {}) for said in says.values())
        except (ValueError, LookupError, AttributeError, TypeError):
            return event, True  # nothing that is known here
        if choice.get("finish_reason") is not None or (text and not tells_progress):
            return event, True
        if text:
            content = delta.get("content")
            self.opening += content if isinstance(content, str) else ""
            if told_role and self._role_is_out:
                del delta["role"]
            self._role_is_out |= told_role
            return b"data: " + json.dumps(payload, separators=(",", ":")).encode(), False
        if tells_progress or not told_role:
            return (b"", False) if tells_progress else (event, True)
        is_first, self._role_is_out = not self._role_is_out, True
        return event if is_first else b"", False
