"""How gateway.js finds model and conversation of a request."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from heartcode.errors import ApiError
from heartcode.routing.backend import Backend
from heartcode.routing.model_registry import ModelRegistry

Call = Callable[..., Any]


@pytest.mark.parametrize(
    "name",
    [None, "", "undefined", False, 0, [], {}, "a", "b", "c", "A", "d", "__proto__", 7, ["a"]],
)
def test_a_model_is_the_one_that_the_rigs_would_take(call: Call, name: object) -> None:
    backends = [Backend("http://127.0.0.1:1"), Backend("http://127.0.0.1:2")]
    try:
        expected = ModelRegistry.of(backends, [("a", "b"), ("c",)]).chosen_by(name).id
    except ApiError:
        expected = None
    found = call("find", name, {"id": "a"})
    assert (found and found["id"]) == expected


def known_by(call: Call, fields: dict[str, Any], *, session: str | None = None) -> Any:
    return call("conversation", session, call("read", body=json.dumps(fields).encode()))


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def system(text: Any) -> dict[str, Any]:
    return {"role": "system", "content": text}


ANSWER = {"role": "assistant", "content": "1 2 3"}
CACHED = [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]
ROLE = "You are a pirate. " * 10


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ({"messages": [user("Hi")]}, {"messages": [user("Hi"), ANSWER, user("Go on")]}),
        (
            {"messages": [system(ROLE), user("Hi")]},
            {"messages": [system(ROLE), user("Hi"), ANSWER, user("Go on")], "max_tokens": 9},
        ),
        # Anthropic's: the mark of what is to be cached moves on to the last turn.
        (
            {"system": ROLE, "messages": [user(CACHED)]},
            {"system": ROLE, "messages": [user("Hi"), ANSWER, user(CACHED)]},
        ),
        (
            {"instructions": ROLE, "input": "Hi"},
            {"instructions": ROLE, "input": [user("Hi"), ANSWER, user("Go on")]},
        ),
        ({"prompt": ROLE + "Hi"}, {"prompt": ROLE + "Hi" + " 1 2 3"}),
        ({"prompt": ROLE * 9}, {"prompt": ROLE * 90}),
        ({"input_prefix": ROLE, "prompt": ""}, {"input_prefix": ROLE, "input_suffix": "x"}),
        (
            {"prompt_cache_key": "k", "messages": [user("a")]},
            {"prompt_cache_key": "k", "messages": [user("b")]},
        ),
    ],
)
def test_a_conversation_keeps_its_key(
    call: Call, first: dict[str, Any], later: dict[str, Any]
) -> None:
    key = known_by(call, first)
    assert key
    assert known_by(call, later) == key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"messages": [user("Hi")]}, {"messages": [user("Ho")]}),
        (
            {"messages": [system("A"), user("Hi")]},
            {"messages": [system("B"), user("Hi")]},
        ),
        ({"system": "A", "messages": [user("Hi")]}, {"system": "B", "messages": [user("Hi")]}),
        ({"prompt": "A" + ROLE}, {"prompt": "B" + ROLE}),
        ({"prompt": [1, 2, 3]}, {"prompt": [1, 2, 4]}),
        ({"prompt_cache_key": "k"}, {"prompt_cache_key": "l"}),
        ({"input": "A"}, {"input": "B"}),
    ],
)
def test_another_conversation_has_another_key(
    call: Call, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert known_by(call, one) != known_by(call, other)


def test_a_session_s_name_comes_first(call: Call) -> None:
    one = known_by(call, {"messages": [user("a")], "prompt_cache_key": "k"}, session="s")
    assert one == known_by(call, {"prompt": "b"}, session="s")
    assert one != known_by(call, {"prompt": "b"}, session="t")
    assert one != known_by(call, {"prompt_cache_key": "s"})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": []},
        {"messages": [None]},
        {"messages": "x"},
        {"messages": [{}, 7]},
        {"prompt": 7},
    ],
)
def test_what_makes_no_sense_has_a_key_too(call: Call, fields: dict[str, Any]) -> None:
    assert isinstance(known_by(call, fields), str)
