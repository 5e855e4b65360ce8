"""Events as llama-server (0c1e57098) writes them, and what is in them."""

from __future__ import annotations

import json
from typing import Any

from heartcode.fields import Fields
from heartcode.relay.continuation import CHAT, COMPLETIONS
from heartcode.relay.transcript import Transcript, transcript_of

ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"stream": True, "messages": [{"role": "user", "content": "Count!"}]},
    COMPLETIONS: {"stream": True, "prompt": "Count:"},
}


def event(payload: dict[str, Any], *, answer: str = "first") -> bytes:
    """Return an event as llama-server writes it: raw UTF-8, no spaces, `choices` first."""
    whole = {**payload, "created": 1, "id": answer, "model": "m", "system_fingerprint": "b"}
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "surrogatepass") + b"\n\n"


def begin(path: str, **kw: str) -> bytes:
    """Return the first event, which has no text: a role, or a token that is held back."""
    if path == COMPLETIONS:
        return token(path, "", **kw)
    delta = {"role": "assistant", "content": None}
    return event({"choices": [{"finish_reason": None, "index": 0, "delta": delta}]}, **kw)


def token(path: str, text: str, **kw: str) -> bytes:
    if path == CHAT:
        return event(
            {"choices": [{"finish_reason": None, "index": 0, "delta": {"content": text}}]}, **kw
        )
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": None}
    return event({"choices": [choice]}, **kw)


def end(path: str, reason: str = "stop", **kw: Any) -> bytes:
    if path == CHAT:
        choice: dict[str, Any] = {"finish_reason": reason, "index": 0, "delta": {}}
    else:
        choice = {"text": "", "index": 0, "logprobs": None, "finish_reason": reason}
    told = {name: kw.pop(name) for name in ("usage", "timings") if name in kw}
    payload = {"choices": [choice]} | told
    return event(payload, **kw) + b"data: [DONE]\n\n"


def empty(path: str, fields: dict[str, Any]) -> Transcript | None:
    return transcript_of(path, Fields.of(body(fields)))


def noted(path: str, *texts: str, fields: dict[str, Any] | None = None) -> Transcript:
    transcript = empty(path, fields or ASKED[path])
    assert transcript is not None
    transcript.note(begin(path) + b"".join(token(path, text) for text in texts))
    return transcript


def text_in(path: str, events: bytes) -> str:
    transcript = empty(path, ASKED[path])
    assert transcript is not None
    transcript.note(events)
    return transcript.text


def payloads(events: bytes) -> list[dict[str, Any]]:
    """Return the JSON of events that `rewrite` has made."""
    lines = [line.removeprefix(b"data: ") for line in events.split(b"\n\n") if line]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def body(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()
