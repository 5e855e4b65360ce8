"""Server-sent events, as far as a relay needs to know them.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html - an event ends with an
empty line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

CONTENT_TYPE = "text/event-stream"
HEADERS = {
    "Content-Type": CONTENT_TYPE,
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx: pass every event on at once
}

# A comment: clients skip it, and nothing on the way takes the connection for dead.
PING = b": ping\n\n"
# What llama-server writes, like this proxy, after an event, and as its last one.
EVENT_END = b"\n\n"
DONE = b"data: [DONE]"

_EVENT_ENDS = (EVENT_END, b"\r\n\r\n")
_LONGEST_END = max(map(len, _EVENT_ENDS))


class WholeEvents:
    r"""Passes complete events on and holds back the beginning of one that is still arriving.

        >>> events = WholeEvents()
        >>> events.feed(b"data: 1\n\ndata:")
        b'data: 1\n\n'
        >>> events.feed(b" 2\n\n")
        b'data: 2\n\n'

    A client can do nothing with half an event, and when the backend dies there, an error event can
    follow only where an event has ended.

    Attributes:
        torn: what is held back.
    """

    def __init__(self) -> None:
        self.torn = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream; return all events that are complete by now."""
        if not self.torn and data.endswith(EVENT_END):
            return data
        # An end may lie partly in what was torn; what comes before was searched already.
        search_from = max(0, len(self.torn) - _LONGEST_END + 1)
        data = self.torn + data
        cut = 0
        for end in _EVENT_ENDS:
            found = data.rfind(end, search_from)
            if found >= 0:
                cut = max(cut, found + len(end))
        # Further empty lines are the beginning of nothing.
        self.torn = data[cut:].lstrip(b"\r\n")
        return data[: len(data) - len(self.torn)]


def without_comments(events: bytes) -> bytes:
    r"""Return complete `events` without those that are comments alone.

        >>> without_comments(b":\n\ndata: 1\n\n: still here\n\n")
        b'data: 1\n\n'

    llama-server sends such (`:`) while it has nothing to say, from a thread that lives on when the
    one that computes hangs (`--sse-ping-interval`).
    """
    if not events.startswith(b":") and b"\n:" not in events:
        return events
    kept = (event for event in events.split(EVENT_END) if event and not _is_comment(event))
    return b"".join(event + EVENT_END for event in kept)


# How llama-server says in the middle of a stream that it has failed ("Compute error."). What
# follows is the proper end of the HTTP answer.
ERRORS = (b'data: {"error":', b"event: error\n")

# What a whole stream ends with: OpenAI's completions, llama-server's own, Anthropic's messages,
# OpenAI's responses. llama-server (0c1e57098) was asked for each.
_LAST_FIELD = b'"stop":true'  # in JSON nobody can say this in an answer's text
_LAST_EVENTS = (
    DONE,
    b"event: message_stop\n",
    b"event: response.completed\n",
    b"event: response.incomplete\n",
)


def error_at(events: bytes) -> int:
    """Return where in complete `events` the first begins that tells of an error, else -1."""
    if events.startswith(ERRORS):
        return 0
    found = [at for error in ERRORS if (at := events.find(EVENT_END + error)) >= 0]
    return min(found) + len(EVENT_END) if found else -1


def has_last_word(events: bytes) -> bool:
    """Return whether one of the last `events` of a stream is the one that only a whole one has."""
    return _LAST_FIELD in events or begins(events, *_LAST_EVENTS)


def begins(events: bytes, *words: bytes) -> bool:
    """Return whether one of complete `events` begins with one of `words`; text may hold them."""
    return events.startswith(words) or any(EVENT_END + word in events for word in words)


def _is_comment(event: bytes) -> bool:
    return all(line.startswith(b":") for line in event.split(b"\n") if line)


def data_event(payload: Mapping[str, Any]) -> bytes:
    """Return the event that carries `payload` as JSON."""
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + EVENT_END


def named_event(name: str, payload: Mapping[str, Any]) -> bytes:
    """Return the event called `name`; clients of Anthropic's API skip those without a name."""
    return b"event: " + name.encode() + b"\n" + data_event(payload)


def payload(event: bytes) -> dict[str, Any] | None:
    """Return the JSON object of an event of one line; None if it is none."""
    try:
        payload = json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return None
    return payload if isinstance(payload, dict) else None


def payloads(events: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of complete events of one line; skip all others."""
    for event in events.split(EVENT_END):
        if (found := payload(event)) is not None:
            yield found
