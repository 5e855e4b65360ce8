from __future__ import annotations

import json
from typing import Any

import pytest
from heartcode.api import validation
from heartcode.api.routes import ENDPOINTS, Endpoint
from heartcode.errors import ApiError
from heartcode.fields import Fields
from hypothesis import given
from hypothesis import strategies as st

BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
CHAT, TEXT = BY_PATH["/v1/chat/completions"], BY_PATH["/v1/completions"]
RESPONSES, MESSAGES = BY_PATH["/v1/responses"], BY_PATH["/v1/messages"]
COUNT = BY_PATH["/v1/messages/count_tokens"]
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def check(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    validation.check(Fields.of(json.dumps(fields).encode()), endpoint, max_tokens=1000)


def refusal(endpoint: Endpoint, fields: dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as raised:
        check(endpoint, fields)
    assert raised.value.status == 400
    return raised.value


@pytest.mark.parametrize(
    "text", [r"\ud83d", r"\uDE00", r"\ude00\ud83d", r"\ud83d\\ude00", r"\ud83dude00"]
)
@pytest.mark.parametrize("where", [b'{"prompt": "%s"}', b'{"a": [{"x%s": 1}]}'])
def test_half_a_character_is_refused(where: bytes, text: str) -> None:
    with pytest.raises(ApiError, match="half of a character") as raised:
        validation.parse(where % text.encode(), max_depth=10)
    assert (raised.value.status, raised.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("text", "prompt"),
    [(r"\ud83d\ude00", "\U0001f600"), (r"\\ud83d", r"\ud83d"), ("\U0001f600", "\U0001f600")],
)
def test_whole_characters_pass(text: str, prompt: str) -> None:
    assert validation.parse(f'{{"prompt": "{text}"}}'.encode(), max_depth=10) == {"prompt": prompt}


@pytest.mark.parametrize(
    ("endpoint", "fields", "param"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": None}, "messages"),
        (CHAT, {"messages": "hello"}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (MESSAGES, {"messages": {"role": "user"}}, "messages"),
        (TEXT, {"messages": []}, "prompt"),
        (TEXT, {"prompt": []}, "prompt"),
        (RESPONSES, {}, "input"),
        (CHAT, {"messages": [*HELLO["messages"], "hello"]}, "messages[1]"),
        (CHAT, {"messages": [{"content": "hello"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": 7, "content": "hello"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0]"),
        (
            MESSAGES,
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
        ),
        (MESSAGES, {"messages": [{"content": "hello"}]}, "messages[0].role"),
        (COUNT, {"messages": [{"content": "hello"}]}, "messages[0].role"),
        (COUNT, {}, "messages"),
        (BY_PATH["/apply-template"], {"messages": [{"content": "hello"}]}, "messages[0].role"),
        (CHAT, {**HELLO, "stream": "true"}, "stream"),
        (CHAT, {**HELLO, "stream": 1}, "stream"),
        (CHAT, {**HELLO, "max_tokens": "10"}, "max_tokens"),
        (CHAT, {**HELLO, "max_tokens": -2}, "max_tokens"),
        (CHAT, {**HELLO, "max_completion_tokens": 1001}, "max_completion_tokens"),
        (CHAT, {**HELLO, "max_tokens": 5, "n_predict": 1e9}, "n_predict"),
        (RESPONSES, {"input": "x", "max_output_tokens": [1]}, "max_output_tokens"),
    ],
    ids=repr,
)
def test_a_wrong_field_is_named(endpoint: Endpoint, fields: dict[str, Any], param: str) -> None:
    assert refusal(endpoint, fields).param == param


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (CHAT, {**HELLO, "stream": None, "max_tokens": None, "xtc_probability": "odd"}),
        (CHAT, {**HELLO, "max_tokens": -1, "n_predict": 0, "max_completion_tokens": 1000}),
        (CHAT, {**HELLO, "max_tokens": 16.0}),
        (TEXT, {"prompt": ""}),
        (TEXT, {"prompt": [1, 2, "three"]}),
        (TEXT, {"prompt": {"prompt_string": "x"}}),
        (RESPONSES, {"input": []}),
        (CHAT, {"messages": [{"role": "", "content": None}]}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        (CHAT, {"messages": [{"role": "assistant", "tool_calls": []}]}),
        (BY_PATH["/apply-template"], {"messages": []}),
        (BY_PATH["/infill"], {"input_prefix": "a", "input_suffix": "b"}),
        (BY_PATH["/tokenize"], {"content": "x", "stream": 7}),
    ],
    ids=repr,
)
def test_what_llama_server_takes_passes(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    check(endpoint, fields)


@pytest.mark.parametrize(
    "body",
    [
        b'{"n": NaN}',
        b'{"n": -Infinity}',
        b'{"n": -1e400}',
        '{"n": 1}'.encode("utf-16"),
        b'{"n": "\xff"}',
    ],
)
def test_what_python_takes_for_json_and_llama_server_does_not(body: bytes) -> None:
    with pytest.raises(ApiError, match="not valid JSON"):
        validation.parse(body, max_depth=10)


def test_a_byte_order_mark_is_skipped() -> None:
    assert validation.parse(b'\xef\xbb\xbf{"n": 1}', max_depth=10) == {"n": 1}


def test_depth() -> None:
    def nested(depth: int) -> bytes:
        return json.dumps({"a": [{"b": ["[[[["]}]} if depth == 4 else {"a": [[[[1]]]]}).encode()

    assert validation.parse(nested(4), max_depth=4)
    with pytest.raises(ApiError) as raised:
        validation.parse(nested(5), max_depth=4)
    assert raised.value.code == "json_too_deep"


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (TEXT, {"prompt": "x", "messages": "Hi", "max_output_tokens": "many"}),
        (CHAT, {**HELLO, "prompt": [], "input": 5, "max_output_tokens": -7}),
        (MESSAGES, {**HELLO, "max_completion_tokens": 1e9}),
    ],
)
def test_what_other_endpoints_read_is_ignored(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    check(endpoint, fields)
    own = endpoint.own(Fields.of(json.dumps({**fields, "temperature": 1}).encode()))
    assert own == {**{name: fields[name] for name in own if name in fields}, "temperature": 1}
    assert own.keys() <= {"prompt", "messages", "temperature"} & {endpoint.prompt, "temperature"}


@pytest.mark.parametrize(
    "number",
    [
        "1" * 400,
        "-" + "1" * 5000,
        "1e309",
        "1E+0400",
        "0.1e999",
        "1" * 250 + "e99",
        "1" * 400 + ".5",
    ],
)
def test_a_number_beyond_all_doubles_is_refused(number: str) -> None:
    with pytest.raises(ApiError, match="not valid JSON"):
        validation.parse(f'{{"n": {number}}}'.encode(), max_depth=10)


@pytest.mark.parametrize(
    "number",
    ["1" * 60, "9" * 308, "1e308", "1e-400", "0." + "0" * 400 + "1", "1e-" + "0" * 310 + "1"],
)
def test_one_that_a_double_holds_passes_also_beside_a_text_that_looks_like_one(number: str) -> None:
    text = f'{{"n": {number}, "prompt": "1e400 {"1" * 400}"}}'
    assert float(validation.parse(text.encode(), max_depth=10)["n"]) == float(number)


@given(
    st.recursive(st.integers() | st.text('[]{}"\\a'), st.lists, max_leaves=40),
    st.integers(1, 12),
)
def test_levels_are_counted_as_they_are(value: Any, limit: int) -> None:
    def levels(value: Any) -> int:
        return 1 + max(map(levels, value), default=0) if isinstance(value, list) else 0

    body = json.dumps({"a": value}).encode()
    if levels(value) + 1 > limit:
        with pytest.raises(ApiError, match=f"more deeply than {limit} levels"):
            validation.parse(body, max_depth=limit)
    else:
        assert validation.parse(body, max_depth=limit) == {"a": value}


@pytest.mark.parametrize(
    ("inner", "depth"), [("[]", 1), ("{}", 1), ("[[]],[]", 2), ("[" * 9 + "]" * 9, 9)]
)
def test_levels_are_counted_wherever_they_are_reached(inner: str, depth: int) -> None:
    body = ('{"a":' + "[" * 90 + ",".join([inner] * 200) + "]" * 90 + "}").encode()
    validation.parse(body, max_depth=91 + depth)
    with pytest.raises(ApiError, match="levels"):
        validation.parse(body, max_depth=90 + depth)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        (CHAT, {"messages": [{"role": "user"}] * 10_001}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{}] * 100}] * 100}),
        (CHAT, {"messages": [{"role": "user", "content": [{}] * 10_000}]}),
        (RESPONSES, {"input": [{"role": "user"}] * 10_001}),
        (RESPONSES, {"input": [{"role": "user", "content": [{}] * 100}] * 100}),
    ],
)
def test_so_many_messages_and_parts_are_refused(endpoint: Endpoint, fields: dict[str, Any]) -> None:
    assert "more than 10000 entries and parts" in refusal(endpoint, fields).message


@pytest.mark.parametrize("content", [None, "x", [{}] * 99], ids=["none", "text", "parts"])
def test_thousands_of_messages_pass(content: object) -> None:
    many = [{"role": "user", "content": content}] * (100 if isinstance(content, list) else 10_000)
    check(CHAT, {"messages": many})
    check(RESPONSES, {"input": many})


@pytest.mark.parametrize("prompt", ["a", ["a"], [1, 2]])
def test_a_list_of_very_many_prompts_is_refused(prompt: Any) -> None:
    refused = refusal(TEXT, {"prompt": [prompt] * 257})
    assert refused.param == "prompt"
    check(TEXT, {"prompt": [prompt] * 256})


def test_one_of_very_many_tokens_is_one_prompt() -> None:
    check(TEXT, {"prompt": ["a", *[1] * 5000]})
