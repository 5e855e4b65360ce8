from __future__ import annotations

from typing import Any

import pytest
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


def test_texts_beyond_what_is_told_apart_count_and_nothing_else_does() -> None:
    many = [{"role": "user", "content": "x"}] * MAX_BLOCKS
    full = Prompt.of({"messages": many})
    assert len(full.blocks) == MAX_BLOCKS

    def longer_by(content: Any) -> int:
        more = {"role": "user", "content": content}
        return Prompt.of({"messages": [*many, more]}).chars - full.chars

    nothing = longer_by([{}] * 100_000)
    assert longer_by("y" * 500) == 500 + nothing
    assert longer_by([{"type": "text", "text": "y" * 500}]) == nothing


def test_of_very_many_parts_the_first_ones_are_read() -> None:
    parts = [{"type": "text", "text": "a"}] * (2 * MAX_BLOCKS)
    prompt = Prompt.of({"messages": [{"role": "user", "content": parts}]})
    assert MAX_BLOCKS <= prompt.chars < 2 * MAX_BLOCKS
