"""What comes while a prompt is read, as llama-server (0c1e57098) was seen to send it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from heartcode.upstream.progress import Reading

ON = {"created": 1, "id": "chatcmpl-a", "model": "m", "object": "chat.completion.chunk"}
HEAD = {"role": "assistant", "content": None}
PROGRESS = {"total": 40, "cache": 0, "processed": 40, "time_ms": 2}
DONE = b"data: [DONE]\n\n"


def event(delta: dict[str, Any], *, progress: bool = False, **choice: Any) -> bytes:
    payload = {"choices": [{"finish_reason": None, "index": 0, "delta": delta, **choice}], **ON}
    if progress:
        payload["prompt_progress"] = PROGRESS
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def native(text: str, *, progress: bool = False) -> bytes:
    payload: dict[str, Any] = {"index": 0, "content": text, "tokens": [], "stop": False}
    if progress:
        payload["prompt_progress"] = PROGRESS
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


def completion(text: str, *, progress: bool = False) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": None}
    payload: dict[str, Any] = {"choices": [choice], **ON}
    if progress:
        payload["prompt_progress"] = PROGRESS
    return b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n"


# What is sent, and what of it is the answer.
STREAMS = {
    "a chat": (
        [event(HEAD, progress=True), event(HEAD, progress=True), event(HEAD)],
        [event({"content": " 1"})],
        [event(HEAD), event({"content": " 1"})],
    ),
    "a template that opens the thoughts": (
        [
            event(HEAD),
            event({"content": "<think>\n"}, progress=True),
            event(HEAD, progress=True),
            event(HEAD),
        ],
        [event({"content": " 1"})],
        [event(HEAD), event({"content": "<think>\n"}), event({"content": " 1"})],
    ),
    "thoughts that are told apart": (
        [event(HEAD, progress=True), event(HEAD)],
        [event({"reasoning_content": "\n 1"})],
        [event(HEAD), event({"reasoning_content": "\n 1"})],
    ),
    "an answer without a token": (
        [event(HEAD, progress=True), event(HEAD)],
        [event({}, finish_reason="length"), DONE],
        [event(HEAD), event({}, finish_reason="length"), DONE],
    ),
    "a completion": (
        [completion("", progress=True)],
        [completion("é")],
        [completion("é")],
    ),
    "llama-server's own": ([native("", progress=True)], [native(" 1")], [native(" 1")]),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one by one"])
def test_all_of_the_answer_and_nothing_else_is_kept(name: str, *, at_once: bool) -> None:
    before, tokens, answer = STREAMS[name]
    sent = [*before, *tokens]
    reading, kept = Reading(), b""
    has_begun: list[bool] = []
    for events in [b"".join(sent)] if at_once else sent:
        if has_begun and has_begun[-1]:
            kept += events  # the caller asks no more
            continue
        said, has_token = reading.sorted_out(events)
        kept += said
        has_begun.append(has_token)
    assert kept == b"".join(answer)
    assert reading.opening == ("<think>\n" if "opens" in name else "")
    assert has_begun == ([True] if at_once else [False] * len(before) + [True])


def test_what_is_not_known_is_a_token() -> None:
    for unknown in (b'data: {"choices":[{"delta":{"role":}}]}\n\n', b'data: {"n":1}\n\n'):
        assert Reading().sorted_out(unknown) == (unknown, True)
