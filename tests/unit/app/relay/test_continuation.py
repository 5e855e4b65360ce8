from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
from heartcode.relay.continuation import CHAT, COMPLETIONS, ContinuationError, Resumed
from heartcode.relay.splice import SpliceError
from heartcode.relay.transcript import Transcript
from hypothesis import example, given
from hypothesis import strategies as st

from tests.unit.app.relay.llama_events import (
    ASKED,
    begin,
    body,
    end,
    event,
    noted,
    payloads,
    text_in,
    token,
)

PATHS = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
# llama-server writes no half of a character.
CHARACTERS = st.characters(exclude_categories=["Cs"])


class Tokenizer:
    """Answers as llama-server does: a token has at most three bytes, whole characters or not.

    `puts_space` is what some tokenizers do before each text.
    """

    def __init__(self, *, puts_space: bool = False) -> None:
        self._space = " " if puts_space else ""
        self.asked: list[tuple[str, Any]] = []

    def __call__(self, path: str, fields: Mapping[str, Any]) -> Any:
        self.asked.append((path, fields))
        if path == "/apply-template":
            said = [f"{m['role']}:{m['content']}\n" for m in fields["messages"]]
            return {"prompt": "".join(said) + "assistant:<think>\n"}
        assert path == "/tokenize"
        content = fields["content"]
        texts = [content] if isinstance(content, str) else content
        tokens = [token for text in texts for token in self._tokens(text)]
        if not fields.get("with_pieces"):
            return {"tokens": [int.from_bytes(token) for token in tokens]}
        return {"tokens": [{"id": int.from_bytes(t), "piece": _piece(t)} for t in tokens]}

    def _tokens(self, text: str) -> list[bytes]:
        data = (self._space + text).encode()
        return [data[i : i + 3] for i in range(0, len(data), 3)]


def _piece(token: bytes) -> str | list[int]:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return list(token)


def resumed(
    transcript: Transcript, fields: dict[str, Any], tokenizer: Tokenizer | None = None
) -> tuple[dict[str, Any], Resumed]:
    """Return the fields of the request that goes on, and all that belongs to it."""
    continuation = transcript.continuation(body(fields))
    assert continuation is not None
    asked = continuation.asked_of(tokenizer or Tokenizer())
    return json.loads(asked.body), asked


@PATHS
@example(["second", "role", "first"], 1)
@given(st.lists(st.text(CHARACTERS, min_size=1), max_size=8), st.integers(0, 8))
def test_the_parts_make_the_whole(path: str, tokens: list[str], cut: int) -> None:
    """Whatever the text, and wherever it is cut."""
    before, after = tokens[:cut], tokens[cut:]
    transcript = noted(path, *before)
    asked, went_on = resumed(transcript, ASKED[path])
    as_chat = path == CHAT and not before  # it begins again
    assert went_on.path == (CHAT if as_chat else COMPLETIONS)
    if not as_chat:
        prompt = asked["prompt"]
        start, ids = (prompt, []) if isinstance(prompt, str) else (prompt[0], prompt[1:])
        assert start == ("Count:" if path == COMPLETIONS else "user:Count!\nassistant:<think>\n")
        # A token of this tokenizer is the bytes that it stands for.
        said = b"".join(t.to_bytes((t.bit_length() + 7) // 8) or b"\0" for t in ids)
        assert said.replace(b"\0", b"") == "".join(before).encode().replace(b"\0", b"")
    sent = [begin(went_on.path, answer="second")]
    sent += [token(went_on.path, text, answer="second") for text in after]
    for piece in [*sent, end(went_on.path, answer="second")]:
        rewritten = went_on.splice.rewrite(piece)
        # Not looked for in the bytes: a text may hold every word that stands around it.
        for payload in payloads(rewritten):
            assert payload["id"] == "first"
            assert all("role" not in choice.get("delta", {}) for choice in payload["choices"])
            assert all(("delta" in choice) == (path == CHAT) for choice in payload["choices"])
        transcript.note(rewritten)
    assert transcript.text == "".join(tokens)
    assert not transcript.is_cut


@PATHS
def test_what_was_generated_is_taken_off_every_limit(path: str) -> None:
    fields = {**ASKED[path], "max_tokens": 10, "max_completion_tokens": 5, "n_predict": -1}
    asked, _ = resumed(noted(path, " 1", " 2"), fields)
    assert [asked[n] for n in ("max_tokens", "max_completion_tokens", "n_predict")] == [8, 3, -1]


@PATHS
def test_a_limit_of_no_tokens_is_no_missing_limit(path: str) -> None:
    # llama-server generates one token for it, and a second one would be too many.
    fields = {**ASKED[path], "max_tokens": 0}
    asked, went_on = resumed(noted(path, " 1"), fields)
    assert asked["max_tokens"] == 1
    told = went_on.splice.rewrite(token(COMPLETIONS, " 2") + end(COMPLETIONS, "stop"))
    assert text_in(path, told) == ""


@PATHS
def test_a_character_of_several_tokens_counts_as_these(path: str) -> None:
    asked, _ = resumed(noted(path, "日", "本 語"), {**ASKED[path], "max_tokens": 10})
    # 3 bytes, and 7 in one event.
    assert len(asked["prompt"]) == 1 + 4
    assert asked["max_tokens"] == 6


@PATHS
def test_what_a_tokenizer_changes_goes_on_as_a_text(path: str) -> None:
    fields = {**ASKED[path], "max_tokens": 100}
    asked, _ = resumed(noted(path, "ab", "cd"), fields, Tokenizer(puts_space=True))
    prompt = asked["prompt"]
    assert prompt.endswith("abcd")
    before, whole = (-(-(1 + len(text)) // 3) for text in (prompt.removesuffix("abcd"), prompt))
    assert asked["max_tokens"] == 100 - (whole - before)


@PATHS
def test_an_answer_that_lacks_only_its_end_gets_it(path: str) -> None:
    fields = {**ASKED[path], "max_tokens": 2, "stream_options": {"include_usage": True}}
    asked, went_on = resumed(noted(path, " 1", " 2"), fields)
    assert asked["max_tokens"] == 1
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 1,
        "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 12},
    }
    told = went_on.splice.rewrite(token(COMPLETIONS, " 3") + end(COMPLETIONS, "stop", usage=usage))
    assert text_in(path, told) == ""
    found = payloads(told)
    assert [c["finish_reason"] for p in found for c in p["choices"]] == ["length"]
    assert [payload["usage"] for payload in found if "usage" in payload] == [
        {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 10},
        }
    ]


def test_the_end_of_a_chat_is_told_as_one() -> None:
    """In the order of llama-server: the reason, and in an event of its own what it has cost."""
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
    timings = {"predicted_n": 5, "predicted_ms": 50.0}
    for asked_for in (True, False):
        fields = {**ASKED[CHAT], "stream_options": {"include_usage": asked_for}}
        _, went_on = resumed(noted(CHAT, " 1", " 2"), fields)
        last = end(COMPLETIONS, "stop", usage=dict(usage), timings=dict(timings))
        told = payloads(went_on.splice.rewrite(last))
        assert told[0]["choices"] == [{"finish_reason": "stop", "index": 0, "delta": {}}]
        assert {payload["object"] for payload in told} == {"chat.completion.chunk"}
        assert [payload.get("usage") for payload in told] == (
            [None, {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}]
            if asked_for
            else [None]
        )
        assert told[-1]["timings"] == {"predicted_n": 7, "predicted_ms": 70.0}


def test_a_chat_goes_on_with_what_its_template_made_of_it() -> None:
    tokenizer = Tokenizer()
    fields = {**ASKED[CHAT], "chat_template_kwargs": {"a": 1}, "min_p": 0.1, "best_of": 1}
    asked, _ = resumed(noted(CHAT, " 1", " 2"), fields, tokenizer)
    assert ("/apply-template", fields) in tokenizer.asked
    assert asked.keys() == {"stream", "min_p", "prompt"}


def test_a_chat_needs_what_its_template_makes_of_it() -> None:
    continuation = noted(CHAT, " 1").continuation(body(ASKED[CHAT]))
    assert continuation is not None
    answers: list[Any] = [{}, [], {"prompt": 7}, 7]
    for answer in answers:
        with pytest.raises(ContinuationError):
            continuation.asked_of(partial(_say, answer))


def test_a_backend_that_tells_no_tokens_gets_the_text() -> None:
    fields = {**ASKED[COMPLETIONS], "max_tokens": 10}
    continuation = noted(COMPLETIONS, " 1", " 2").continuation(body(fields))
    assert continuation is not None
    answers: list[Any] = [{}, [], {"tokens": 7}, {"tokens": [7]}, {"tokens": [{"piece": " 1 2"}]}]
    for answer in answers:
        asked = json.loads(continuation.asked_of(partial(_say, answer)).body)
        assert (asked["prompt"], asked["max_tokens"]) == ("Count: 1 2", 8)


def _say(answer: Any, _path: str, _fields: Mapping[str, Any]) -> Any:
    return answer


def test_what_is_no_completion_is_no_continuation() -> None:
    for events in (
        event({"choices": [7]}),
        event({"choices": [{"text": "x"}]}),
        b"data: <html>\n\n",
    ):
        _, went_on = resumed(noted(CHAT, " 1", " 2"), ASKED[CHAT])
        with pytest.raises(SpliceError):
            went_on.splice.rewrite(events)
