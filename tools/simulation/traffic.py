"""A synthetic day of role play: who talks when, how long, and what they say.

An assumption, not a measurement: a conversation has a character card of 400 to 1,200 tokens and 4
to 60 turns; between two of them somebody reads and writes for 20 to 120 s; an answer has 60 to 300
tokens. In the evening there are five times as many as in the morning.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import takewhile

CHARS_PER_TOKEN = 4
#: Tokens that a conversation may have; then its oldest turns are left out, as chat apps do it.
CONTEXT = 4096
EVENING_H = 21.0
_NIGHT = 0.2


def share_of_peak(hour: float) -> float:
    """Return how many there are at an hour of the day, as a share of the evening's."""
    wave = (1 + math.cos((hour - EVENING_H) / 24 * 2 * math.pi)) / 2
    return _NIGHT + (1 - _NIGHT) * wave


@dataclass(kw_only=True)
class Conversation:
    """One character and somebody who talks to it.

    Attributes:
        name: of its own, which the gateway hashes.
        turns_left: how often it will go on.
        said: its texts; the first is the character card.
        before: what they were at the end of its last turn.
        rig: where that was served.
    """

    name: str
    turns_left: int
    said: list[str]
    before: list[str] = field(default_factory=list)
    rig: int | None = None
    _serial: int = field(default=0)

    @classmethod
    def begun(cls, rng: random.Random, number: int) -> Conversation:
        """Return one that begins now."""
        card = _text(f"card {number}", rng.randint(400, 1200))
        return cls(name=f"conversation {number}", turns_left=rng.randint(4, 60), said=[card])

    def ask(self, rng: random.Random) -> dict[str, object]:
        """Return the body of its next request."""
        self._add(rng.randint(10, 60))
        roles = ("user", "assistant")
        messages = [{"role": "system", "content": self.said[0]}]
        messages += [
            {"role": roles[n % 2], "content": text} for n, text in enumerate(self.said[1:])
        ]
        return {"messages": messages}

    def answer(self, tokens: int) -> None:
        """Take the answer; one that has grown too long forgets its oldest turns."""
        self.turns_left -= 1
        self._add(tokens)
        self.before = list(self.said)
        while sum(map(len, self.said)) > (CONTEXT - 400) * CHARS_PER_TOKEN:
            del self.said[1:3]

    def kept_chars(self) -> int:
        """Return how much of what it says now is the beginning of what it was before."""
        pairs = zip(self.before, self.said, strict=False)
        return sum(len(old) for old, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def _add(self, tokens: int) -> None:
        self._serial += 1
        self.said.append(_text(f"{self.name}, {self._serial}", tokens))


def pause_s(rng: random.Random) -> float:
    """Return how long somebody reads and writes before the next turn."""
    return rng.uniform(20, 120)


def answer_tokens(rng: random.Random) -> int:
    """Return how long an answer becomes."""
    return rng.randint(60, 300)


def _text(begin: str, tokens: int) -> str:
    return begin.ljust(tokens * CHARS_PER_TOKEN, ".")
