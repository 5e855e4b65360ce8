"""What a slot of a llama-server, its host memory or a file holds: a prompt and the answer to it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from heartcode.routing.prompt_hash import Prompt


@dataclass(slots=True, eq=False)
class KnownSequence:
    """A prompt and, as far as it is known, the answer to it.

    Attributes:
        blocks, prompt_chars, open_ended: as of the `Prompt`.
        answer_chars: how long the answer is; 0 if it is not known.
        tokens: how many both have, as llama-server told; 0 if it is not known.
        is_placed: whether it is for sure in the slot that it is believed to be in.
        is_saved: whether it needs no file: it has one, or could not have one.
    """

    blocks: array[int]
    prompt_chars: int
    open_ended: bool
    answer_chars: int = 0
    tokens: int = 0
    is_placed: bool = False
    is_saved: bool = False
    first: int | None = field(init=False)

    def __post_init__(self) -> None:
        self.first = first_of(self.blocks)

    @property
    def chars(self) -> int:
        """How long prompt and answer are."""
        return self.prompt_chars + self.answer_chars

    def shared_with(self, prompt: Prompt) -> int:
        """Return how many characters of `prompt` this sequence begins with."""
        same = _common(self.blocks, prompt.blocks)
        if same < len(prompt.blocks) and self._is_continued(same):
            # What follows is the answer, which was never seen here but is in the cache.
            return min(prompt.chars, self.chars)
        return prompt.ends[same - 1] if same else 0

    def goes_on_with(self, other: KnownSequence) -> bool:
        """Return whether the prompt of `other` is the beginning of this one's, or the same."""
        return other._is_continued(_common(self.blocks, other.blocks))

    def _is_continued(self, same: int) -> bool:
        # In a text completion the answer has lengthened the last block, which therefore differs.
        return same > 0 and same >= len(self.blocks) - self.open_ended


def first_of(blocks: array[int]) -> int | None:
    """Return the hash of the first block; None without one."""
    return blocks[0] if blocks else None


def _common(one: array[int], other: array[int]) -> int:
    """Return how many blocks two chains have in common, by bisection.

    A block's hash stands for everything before it, so the first ones are equal and the rest differ.
    """
    if not (one and other) or one[0] != other[0]:
        return 0  # as most are
    low, high = 1, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
