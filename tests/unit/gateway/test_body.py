"""What body.js finds in a request's body, and what it takes for that."""

import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import unquote

import pytest
from heartcode.api.read_for_gateway import CACHE_KEY_HEADER, MODEL_HEADER, told

from tools.bench.bodies import KINDS, MODEL, NO_JSON, bodies

Call = Callable[..., Any]

NAMES: list[Any] = ["a", "", None, False, 7, [], {}, ["a"], 'a"b\\', "é", "😀", "a\nb", "x" * 300]


@pytest.mark.parametrize("form", [{}, {"indent": 4}, {"ensure_ascii": False}])
@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_what_a_parser_says(call: Call, name: object, form: Mapping[str, Any]) -> None:
    fields = {"messages": [{"role": "user", "content": 'He says: "{["'}], "model": name, "n": [1]}
    text = json.dumps(fields, **form)
    assert call("read", body=text.encode())["model"] == name


@pytest.mark.parametrize(
    "text",
    [
        r'{"mod\u0065l": "c"}',
        '{"model": "a", "model": "c"}',
        '{"messages": [{"model": "a"}], "x": {"model": "a"}, "model": "c", "y": "model"}',
        r'{"x": "\\", "y": "\"", "z": "\\\"", "model": "c"}',
        '{"a":1.5e-7,"b":true,"c":[1,[2,{"d":"]}"}]],"model":"c"}',
        '\ufeff\n {"model" : "c"}\n',
        '{"model": "c"}\0',  # llama-server takes it for the end
        '{"tools": ' + '{"[}\\"":' * 60 + "1" + "}" * 60 + ', "model": "c"}',  # njs parses 32
    ],
)
def test_it_is_found_wherever_it_stands(call: Call, text: str) -> None:
    told = call("read", body=text.encode())
    assert (told["model"], told["is_whole"]) == ("c", True)


@pytest.mark.parametrize(
    "text",
    [
        '{"messages": [{"role": "user", "content": "model"}]}',
        r'{"x": "\"model\": \"c\""}',
        '{"messages": [{"model": "c"}], "x": {"model": "c"}}',
        '{"models": "c", "mode": "c", "Model": "c"}',
        "{}",
    ],
)
def test_what_is_no_model_is_none(call: Call, text: str) -> None:
    assert "model" not in call("read", body=text.encode())


@pytest.mark.parametrize(
    "text", ["", "{", "}", "[]", "null", '"{}"', "{" * 200, '{"a":"' + "[" * 50, '{"a":["b"']
)
def test_what_is_no_json_object_is_told(call: Call, text: str) -> None:
    assert call("read", body=text.encode())["error"]


@pytest.mark.parametrize("kind", KINDS)
def test_reading_takes_no_more_than_the_body_is_long(call: Call, kind: str) -> None:
    """Of each kind one body and one of twice the length, counted and not timed."""
    for size in (20_000, 40_000):
        body = KINDS[kind](size - 200).encode()
        effort = call("effort", body=body)
        budget = call("budget", len(body))
        assert effort["looks"] <= 2 * budget
        # Once for each of the marks that are looked for ahead, and once for the ends of strings.
        assert effort["searched"] <= 7 * len(body)
        assert effort["copied"] <= 3 * len(body) + 30_000
    assert budget < 2.2 * call("budget", len(body) // 2), "twice as much for twice the length"


@pytest.mark.parametrize("kind", ["plain text", "role play", "line breaks", "tokens", "spaces"])
def test_an_ordinary_chat_is_read_to_its_end(call: Call, kind: str) -> None:
    assert call("read", body=KINDS[kind](100_000).encode())["is_whole"]


def test_what_is_not_read_keeps_its_conversation_from_turn_to_turn(call: Call) -> None:
    for kind in ("deep tools", "many turns"):
        first = json.loads(KINDS[kind](60_000))
        later = first | {"messages": [*first["messages"], {"role": "assistant", "content": "1"}]}
        told = [call("read", body=json.dumps(fields).encode()) for fields in (first, later)]
        assert not told[0]["is_whole"]
        assert told[0]["opening"] == told[1]["opening"]


@pytest.mark.parametrize("name", NAMES)
def test_a_rig_tells_of_a_body_what_would_have_been_read(call: Call, name: object) -> None:
    fields = {"model": name, "prompt_cache_key": "kéy", "prompt": "x"}
    headers = told(fields).headers
    told_here = call("read", body=json.dumps(fields).encode())
    assert json.loads(unquote(headers[MODEL_HEADER])) == told_here["model"]
    assert headers[CACHE_KEY_HEADER] == sha256(b"k\xc3\xa9y").hexdigest()
    assert call("conversation", None, told_here).endswith(headers[CACHE_KEY_HEADER])


def test_of_a_body_without_them_a_rig_tells_nothing() -> None:
    assert told({"prompt": "x"}).headers == {}
    assert told({"prompt_cache_key": 7}).headers == {}
    assert told({"model": "x" * 2000}).code == "model_not_found"


@pytest.mark.parametrize("size", [1000, 30_000])
def test_the_bodies_are_what_they_are_said_to_be(size: int) -> None:
    for kind, body in bodies(size):
        assert size / 2 < len(body) < size + 4096, kind
        if kind in NO_JSON:
            with pytest.raises(ValueError, match=r"line 1"):
                json.loads(body)
    assert json.loads(KINDS["deep tools"](size))["model"] == MODEL
