from __future__ import annotations

import json
from typing import Any

import pytest
from heartcode.relay.splice import SpliceError
from heartcode.relay.transcript import CHAT, COMPLETIONS, Transcript, transcript_of
from hypothesis import example, given
from hypothesis import strategies as st

ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"stream": True, "messages": [{"role": "user", "content": "Count!"}]},
    COMPLETIONS: {"stream": True, "prompt": "Count:"},
}
PATHS = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


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
    usage = kw.pop("usage", None)
    payload = {"choices": [choice]} | ({"usage": usage} if usage else {})
    return event(payload, **kw) + b"data: [DONE]\n\n"


def noted(path: str, *texts: str, fields: dict[str, Any] | None = None) -> Transcript:
    transcript = transcript_of(path, fields or ASKED[path])
    assert transcript is not None
    transcript.note(begin(path) + b"".join(token(path, text) for text in texts))
    return transcript


def text_in(path: str, events: bytes) -> str:
    transcript = transcript_of(path, ASKED[path])
    assert transcript is not None
    transcript.note(events)
    return transcript.text


def payloads(events: bytes) -> list[dict[str, Any]]:
    """Return the JSON of events that `rewrite` has made."""
    lines = [line.removeprefix(b"data: ") for line in events.split(b"\n\n") if line]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def body(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


# Low surrogates are left out: JSON makes one character of a high one and a low one behind it, which
# no UTF-8 has.
CHARACTERS = st.characters(exclude_categories=()).filter(lambda c: not "\udc00" <= c <= "\udfff")


@PATHS
@example(["second", "role", "first"], 1, 4)
@given(
    st.lists(st.text(CHARACTERS, min_size=1), max_size=8),
    st.integers(0, 8),
    st.integers(1, 30),
)
def test_the_parts_make_the_whole(path: str, tokens: list[str], cut: int, step: int) -> None:
    """Whatever the text, wherever it is cut, and however the repetition is divided."""
    before, after = tokens[:cut], tokens[cut:]
    transcript = noted(path, *before)
    assert (transcript.text, transcript.tokens) == ("".join(before), len(before))
    continuation = transcript.continuation(body(ASKED[path]))
    assert continuation is not None
    fields = json.loads(continuation.body)
    seen = "".join(before)
    if path == CHAT:
        answer = seen + "".join(after)
        said = [answer[i : i + step] for i in range(0, len(answer), step)]
        assert [m["content"] for m in fields["messages"]] == ["Count!", *([seen] if seen else [])]
    else:
        said = after
        assert fields["prompt"] == "Count:" + seen
    events = [begin(path, answer="second"), *(token(path, t, answer="second") for t in said)]
    for piece in [*events, end(path, answer="second")]:
        rewritten = continuation.splice.rewrite(piece)
        # Not looked for in the bytes: a text may hold every word that stands around it.
        for payload in payloads(rewritten):
            assert payload["id"] == "first"
            assert all("role" not in choice.get("delta", {}) for choice in payload["choices"])
        transcript.note(rewritten)
    assert transcript.text == "".join(tokens)
    assert not transcript.is_cut


@PATHS
def test_what_was_generated_is_taken_off_every_limit(path: str) -> None:
    fields = {**ASKED[path], "max_tokens": 10, "max_completion_tokens": 5, "n_predict": -1}
    continuation = noted(path, " 1", " 2").continuation(body(fields))
    assert continuation is not None
    asked = json.loads(continuation.body)
    assert [asked[n] for n in ("max_tokens", "max_completion_tokens", "n_predict")] == [8, 3, -1]


@PATHS
def test_an_answer_that_lacks_only_its_end_gets_it(path: str) -> None:
    continuation = noted(path, " 1", " 2").continuation(body({**ASKED[path], "max_tokens": 2}))
    assert continuation is not None
    assert json.loads(continuation.body)["max_tokens"] == 1
    repeated = " 1 2" if path == CHAT else ""
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 1,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 12},
    }
    told = continuation.splice.rewrite(
        token(path, repeated + " 3") + end(path, "stop", usage=usage)
    )
    assert text_in(path, told) == ""
    last = json.loads(told.split(b"\n\n")[-3].removeprefix(b"data: "))
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 10},
    }


def test_another_beginning_is_no_continuation() -> None:
    for events in (token(CHAT, " 7"), token(CHAT, " 1") + end(CHAT), b"data: <html>\n\n"):
        continuation = noted(CHAT, " 1", " 2").continuation(body(ASKED[CHAT]))
        assert continuation is not None
        with pytest.raises(SpliceError):
            continuation.splice.rewrite(events)


def test_progress_is_not_told_again() -> None:
    fields = {**ASKED[CHAT], "return_progress": True}
    continuation = noted(CHAT, " 1").continuation(body(fields))
    assert continuation is not None
    assert "return_progress" not in json.loads(continuation.body)


@PATHS
def test_a_text_that_ends_with_the_beginning_of_a_stop_string_is_left_alone(path: str) -> None:
    transcript = noted(path, " 1", " 2")
    assert transcript.continuation(body({**ASKED[path], "stop": " 2 3"})) is None
    assert transcript.continuation(body({**ASKED[path], "stop": ["x", "2"]})) is None
    assert transcript.continuation(body({**ASKED[path], "stop": ["1 3"]})) is not None


@PATHS
def test_a_finished_answer_needs_only_its_last_line(path: str) -> None:
    transcript = noted(path, " 1")
    assert transcript.ending is None
    assert transcript.is_cut
    transcript.note(end(path).removesuffix(b"data: [DONE]\n\n"))
    assert transcript.ending == b"data: [DONE]\n\n"
    transcript.note(b"data: [DONE]\n\n")
    assert not transcript.is_cut


@pytest.mark.parametrize(
    "delta", [{"tool_calls": [{"index": 0}]}, {"reasoning_content": "hm"}, {"content": [1]}, 7]
)
def test_what_is_more_than_text_is_not_continued(delta: object) -> None:
    transcript = noted(CHAT, " 1")
    transcript.note(event({"choices": [{"finish_reason": None, "index": 0, "delta": delta}]}))
    assert transcript.continuation(body(ASKED[CHAT])) is None


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        *[(CHAT, {name: "x"}) for name in ("tools", "grammar", "json_schema", "logprobs")],
        *[(CHAT, {name: 2}) for name in ("n", "n_cmpl", "n_probs", "best_of")],
        *[(COMPLETIONS, {name: "x"}) for name in ("echo", "suffix", "logprobs")],
        (CHAT, {"tool_choice": "required"}),
        (CHAT, {"response_format": {"type": "json_object"}}),
        (CHAT, {"response_format": "json"}),
        (CHAT, {"continue_final_message": True}),
        (CHAT, {"verbose": True}),
        (CHAT, {"add_generation_prompt": False}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        (CHAT, {"messages": "x"}),
        (CHAT, {"messages": []}),
        (CHAT, {"stop": 5}),
        (CHAT, {"max_tokens": "many"}),
        (COMPLETIONS, {"prompt": [1, 2, 3]}),
        ("/v1/embeddings", {}),
    ],
)
def test_requests_that_are_ruled_out(path: str, fields: dict[str, Any]) -> None:
    assert transcript_of(path, {**ASKED.get(path, ASKED[CHAT]), **fields}) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": ["a", "b"], "n": 1, "tools": [], "logprobs": False, "max_tokens": None},
        {"response_format": {"type": "text"}, "tool_choice": "none", "min_p": 0.05},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": []}]},
    ],
)
def test_requests_that_can_be_continued(fields: dict[str, Any]) -> None:
    assert transcript_of(CHAT, {**ASKED[CHAT], **fields}) is not None


def test_only_what_is_repeated_is_asked_to_be_repeated() -> None:
    """llama.cpp's versions from autumn 2026 on repeat a trailing assistant message only then."""
    for path, echoed in ((CHAT, True), (COMPLETIONS, None)):
        continuation = noted(path, " 1", " 2").continuation(body(ASKED[path]))
        assert continuation is not None
        assert json.loads(continuation.body).get("echo") is echoed


def test_a_beginning_by_the_client_grows() -> None:
    own = {"role": "assistant", "content": " 1 2"}
    fields = {**ASKED[CHAT], "messages": [*ASKED[CHAT]["messages"], own]}
    continuation = noted(CHAT, " 1 2 3", " 4").continuation(body(fields))
    assert continuation is not None
    assert json.loads(continuation.body)["messages"][1:] == [
        {"role": "assistant", "content": " 1 2 3 4"}
    ]
    assert noted(CHAT, " 7").continuation(body(fields)) is None
