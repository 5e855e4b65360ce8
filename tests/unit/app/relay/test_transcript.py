from __future__ import annotations

from typing import Any

import pytest
from heartcode.relay.continuation import CHAT, COMPLETIONS

from tests.unit.app.relay.llama_events import ASKED, body, empty, end, event, noted

PATHS = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])


@PATHS
def test_the_text_and_how_it_came(path: str) -> None:
    transcript = noted(path, " 1", "é\n", '"')
    assert (transcript.text, transcript.events) == (' 1é\n"', 3)
    continuation = transcript.continuation(body(ASKED[path]))
    assert continuation is not None
    assert (continuation.has_text, continuation.pieces) == (True, [" 1", "é\n", '"'])


@PATHS
@pytest.mark.parametrize(
    ("opening", "pieces"),
    [
        ("", ["<think>\n", " 1", " 2"]),
        ("<think>\n", [" 1", " 2"]),
        ("<think>\n ", ["1", " 2"]),
        ("<think>\n 1 2", []),
    ],
)
def test_what_the_prompt_has_of_the_answer_was_not_generated(
    path: str, opening: str, pieces: list[str]
) -> None:
    transcript = noted(path, "<think>\n", " 1", " 2")
    transcript.opening = opening
    continuation = transcript.continuation(body(ASKED[path]))
    assert continuation is not None
    assert (continuation.has_text, continuation.pieces) == (True, pieces)


def test_a_text_that_does_not_begin_as_it_must_is_not_continued() -> None:
    for opening in ("<thought>", " 1 2 3"):
        transcript = noted(CHAT, " 1", " 2")
        transcript.opening = opening
        assert transcript.continuation(body(ASKED[CHAT])) is None


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
        (CHAT, {"reasoning_budget_tokens": 0}),
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
    assert empty(path, {**ASKED.get(path, ASKED[CHAT]), **fields}) is None


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
    assert empty(CHAT, {**ASKED[CHAT], **fields}) is not None
