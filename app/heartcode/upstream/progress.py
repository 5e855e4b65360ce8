"""How far llama-server has read a prompt: it tells at every batch, if it is asked to.

The proxy asks in any case. llama-server looks for its peer when it writes, and while others are
served at no other time (docs/adr/0008-whole-answers-are-asked-for-as-streams.md), so that without a
word to write it would read a long prompt to its end for a client that has left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELD = "return_progress"

_MARK = b'"prompt_progress":'
_EVENT_END = b"\n\n"


def may_be_asked_for(fields: Mapping[str, Any]) -> bool:
    """Return whether the proxy can ask with nobody noticing.

    Not where the client has begun the answer: the beginning then comes with the progress.
    """
    return FIELD not in fields and not is_begun(fields)


def is_begun(fields: Mapping[str, Any]) -> bool:
    """Return whether the client has begun the answer itself, with a trailing assistant message."""
    messages = fields.get("messages")
    return bool(messages and messages[-1].get("role") == "assistant")


def asked_for(body: bytes) -> bytes:
    """Return `body`, a JSON object with fields, that asks; its other bytes stay as they are."""
    return body.replace(b"{", b'{"return_progress":true,', 1)


def without(events: bytes) -> bytes:
    """Return complete `events` without those that tell of progress."""
    if _MARK not in events:
        return events
    kept = (event for event in events.split(_EVENT_END) if _MARK not in event)
    return _EVENT_END.join(kept)
