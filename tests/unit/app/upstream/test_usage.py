from __future__ import annotations

import json
from typing import Any

import pytest
from heartcode.upstream.usage import Usage
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
