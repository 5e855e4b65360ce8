from __future__ import annotations

from typing import Any

import pytest
from heartcode.routing import prompt_hash
from heartcode.routing.known_sequence import KnownSequence
from heartcode.routing.prompt_hash import MAX_BLOCKS, Prompt
from hypothesis import given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = st.sampled_from(["messages", "prompt", "input", "system", "tools", "instructions"])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=200)}
    ),
    max_size=6,
)


def chat(*contents: str) -> Prompt:
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(contents)]
    return Prompt.of({"messages": messages})


@given(st.dictionaries(FIELDS, JSON))
def test_any_body_has_a_prompt(fields: dict[str, Any]) -> None:
    prompt = Prompt.of(fields)
    assert len(prompt.blocks) == len(prompt.ends) <= MAX_BLOCKS
    assert list(prompt.ends) == sorted(set(prompt.ends))
    assert not prompt.ends or prompt.ends[-1] <= prompt.chars


@given(MESSAGES, MESSAGES)
def test_a_conversation_goes_on_with_the_same_blocks(
    before: list[dict[str, str]], after: list[dict[str, str]]
) -> None:
    first = Prompt.of({"messages": before})
    second = Prompt.of({"messages": before + after})
    assert second.blocks[: len(first.blocks)] == first.blocks
    assert second.chars >= first.chars


@given(st.text("ab", max_size=200), st.text("ab", max_size=200), st.text("ab", max_size=150))
def test_equal_blocks_mean_an_equal_beginning(begin: str, one: str, other: str) -> None:
    one, other = begin + one, begin + other
    first, second = Prompt.of({"prompt": one}), Prompt.of({"prompt": other})
    for block, end in enumerate(first.ends[: len(second.ends)]):
        equal = end == second.ends[block] and one[:end] == other[:end]
        assert (first.blocks[block] == second.blocks[block]) == equal


def test_the_role_is_part_of_the_prompt() -> None:
    one = Prompt.of({"messages": [{"role": "user", "content": "Hello"}]})
    other = Prompt.of({"messages": [{"role": "system", "content": "Hello"}]})
    assert one.blocks != other.blocks


def test_parts_of_text_read_like_text() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert Prompt.of({"messages": [{"role": "user", "content": parts}]}) == chat("Hello")


@pytest.mark.parametrize(
    "fields",
    [{"prompt": "x" * 10_000_000}, {"messages": [{"role": "user", "content": "x"}] * 100_000}],
    ids=["long", "many"],
)
def test_however_long_it_is_it_takes_little_memory(fields: dict[str, Any]) -> None:
    prompt = Prompt.of(fields)
    assert len(prompt.blocks) == MAX_BLOCKS
    assert prompt.chars >= 100_000


@pytest.mark.parametrize("so_many", [1, 2, 255, 256, 257, 2000])
def test_conversations_of_any_length_go_on_where_they_were(so_many: int) -> None:
    turns = [
        {"role": ("user", "assistant")[number % 2], "content": f"{number}. " + "and on " * 9}
        for number in range(so_many + 2)
    ]
    first, second = (Prompt.of({"messages": turns[:length]}) for length in (so_many, so_many + 2))
    known = KnownSequence(first.blocks, first.chars, first.open_ended)
    assert known.shared_with(second) == first.chars
    turns[so_many // 2]["content"] = "Something else"
    other = Prompt.of({"messages": turns})
    assert known.shared_with(other) <= first.chars / 2 + 80


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "x"}] * 100_000,
        [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}],
        [{"role": "user", "content": [{}] * 500}] * 200,
    ],
    ids=["messages", "parts", "parts of messages"],
)
def test_of_very_many_things_few_are_looked_at_one_by_one(
    messages: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[Any] = []
    text_of = prompt_hash._text

    def counted(value: Any) -> str:
        encoded.append(value)
        return text_of(value)

    monkeypatch.setattr(prompt_hash, "_text", counted)
    prompt = Prompt.of({"messages": messages})
    assert len(encoded) < 1000
    assert prompt.chars > 100_000
    assert prompt.open_ended
