"""How much Python does to read a body, whatever that is made of: in instructions, not in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from tools.bench_reading import BODIES, read

# Instructions for each byte of a body. A message takes 140, and has 16 bytes at least.
_AT_MOST = 11
# Of a body without very many messages, parts of them or brackets: a hash for each 64 characters.
_USUAL = 1
# For messages, parts and tools that are taken one by one, of which there are 256 at most.
_ONE_BY_ONE = 80_000
_DENSE = {
    *("messages without content", "messages with fields", "many turns", "many parts"),
    "lists in deep ones",
}


def instructions(work: Callable[[], Any]) -> int:
    """Return how many instructions Python's interpreter executes in `work`."""
    done = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal done
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        done += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return done


@pytest.mark.parametrize("size", [50_000, 200_000])
@pytest.mark.parametrize("kind", BODIES)
def test_little_is_done_for_each_byte(kind: str, size: int) -> None:
    body = BODIES[kind](size - 200).encode()
    most = _AT_MOST if kind in _DENSE else _USUAL
    assert 0 < instructions(lambda: read(body)) <= most * size + _ONE_BY_ONE


def test_that_each_value_is_looked_at_would_show() -> None:
    values: list[dict[str, int]] = [{}] * 25_000  # as of a body of 75,000 bytes
    assert instructions(lambda: [value for value in values if value]) > _USUAL * 75_000
