from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from heartcode.upstream.usage import Usage, UsageOfChoices
from hypothesis import given
from hypothesis import strategies as st

TIMINGS = {"cache_n": 24, "prompt_n": 1, "prompt_ms": 12.5, "predicted_n": 4, "predicted_ms": 100.0}
EXPECTED = Usage(evaluated=1, cached=24, generated=4, prompt_s=0.0125, decode_s=0.1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*TIMINGS, "usage"]), inner),
    max_leaves=20,
)


def stream(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


def test_a_whole_answer() -> None:
    assert Usage.in_body(json.dumps({"choices": [], "timings": TIMINGS}).encode()) == EXPECTED


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_end_of_a_stream(end: str) -> None:
    token = {"timings": {**TIMINGS, "predicted_n": 3}}
    last = {"choices": [], "usage": {"prompt_tokens": 25}, "timings": TIMINGS}
    data = stream(token, last) + b"data: [DONE]\n\n"
    assert Usage.in_stream(data.replace(b"\n", end.encode())) == EXPECTED


@pytest.mark.parametrize(
    "usage",
    [
        {
            "prompt_tokens": 25,
            "completion_tokens": 4,
            "prompt_tokens_details": {"cached_tokens": 24},
        },
        {
            "input_tokens": 25,
            "output_tokens": 4,
            "input_tokens_details": {"cached_tokens": 24},
        },
        {"input_tokens": 1, "output_tokens": 4, "cache_read_input_tokens": 24},
    ],
    ids=["completions", "responses", "messages"],
)
def test_usage_without_timings(usage: dict[str, Any]) -> None:
    assert Usage.of({"usage": usage}) == Usage(evaluated=1, cached=24, generated=4)


def test_tokens_of_the_answer_alone_tell_nothing_of_the_cache() -> None:
    assert Usage.of({"usage": {"output_tokens": 4}}) is None


@pytest.mark.parametrize("data", [b"", b"data: [DONE]\n\n", b": ping\n\n", b"data: {\n\n"])
def test_an_end_that_tells_nothing(data: bytes) -> None:
    assert Usage.in_stream(data) is None


@given(JSON, st.sampled_from(["timings", "usage"]))
def test_whatever_a_backend_says(value: Any, name: str) -> None:
    found = Usage.of({name: value})
    assert found is None or min(found.evaluated, found.cached, found.generated) >= 0
    Usage.of({"timings": dict.fromkeys(TIMINGS, value)})
    Usage.of(value)


def told(generated: int, **fields: Any) -> dict[str, Any]:
    timings = {**TIMINGS, "predicted_n": generated, "predicted_ms": 10.0 * generated}
    return {**fields, "timings": timings}


def choice(index: int, reason: str | None) -> list[dict[str, Any]]:
    return [{"finish_reason": reason, "index": index, "delta": {}}]


@pytest.mark.parametrize(
    "ends",
    [
        [told(4, choices=choice(1, "stop")), told(6, choices=choice(0, "length"))],
        # With `include_usage`; with `timings_per_token` all others have them as well.
        [
            told(3, choices=choice(0, None)),
            {"choices": choice(1, "stop")},
            told(4, choices=[], usage={}),
            {"choices": choice(0, "stop")},
            told(6, choices=[], usage={}),
        ],
        [told(4, index=1, stop=True), told(5, index=0, stop=False), told(6, index=0, stop=True)],
    ],
    ids=["chat", "with usage", "native"],
)
def test_a_stream_of_several_answers_tells_of_each_at_its_end(ends: list[dict[str, Any]]) -> None:
    tally = UsageOfChoices()
    assert tally.usage is None
    for event in ends:
        tally.note(stream(event))
    assert tally.usage == Usage(evaluated=1, cached=24, generated=10, prompt_s=0.0125, decode_s=0.1)


@pytest.mark.parametrize(
    "others",
    [
        [{"text": "1234"}, {"text": "12345678"}],
        [
            {"message": {"content": "1234"}},
            {"message": {"content": "12", "reasoning_content": "345678"}},
        ],
    ],
    ids=["completions", "chat"],
)
def test_a_whole_answer_tells_of_its_first_choice_alone(others: list[Any]) -> None:
    found = Usage.in_body(json.dumps({"choices": others, "timings": TIMINGS}).encode())
    assert found is not None
    assert replace(found, decode_s=round(found.decode_s, 6)) == replace(
        EXPECTED, generated=12, decode_s=0.3
    )


def test_several_answers_of_llama_servers_own() -> None:
    body = json.dumps([told(4, content="a"), told(6, content="b")]).encode()
    assert Usage.in_body(body) == replace(EXPECTED, generated=10, decode_s=0.1)
