"""How fast a backend is and how long texts are, learnt from its own answers.

Every quantity is a ratio of two sums, tokens ÷ seconds for example, in which older answers count
less and less:

    keep = exp(−denominator ÷ memory)
    sums = sums × keep + what was measured
    value = (numerators + prior × weight) ÷ (denominators + weight)

So a long prompt weighs more than a short one, as it should: the time for a few tokens is mostly
overhead. `memory` is how much of the denominator counts and `weight` how much of it the prior is
worth, both in its unit. Before its first answer a backend is taken to be as fast as the playbook
tune.yml measured; where that is not known, as fast as the rig's others, and the rig as fast as P106
cards with an 8B model. What was learnt outlives the process, see `warm/kept_speeds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from heartcode.upstream.usage import Usage

# More than there are tokens, bytes or seconds of anything here.
_ABSURD = 1e12
_PROMPT_MEMORY_S, _DECODE_MEMORY_S = 60.0, 300.0
# An x1 riser's, and an 8B model's in q8_0.
_BYTES_PER_S, _BYTES_PER_TOKEN = 200e6, 70e3


class LearntRatio:
    """A ratio that follows what is measured.

    Its prior may be another one, which learns what this one does, unless `teaches` says otherwise.
    """

    def __init__(
        self, prior: float | LearntRatio, *, weight: float, memory: float, teaches: bool = True
    ) -> None:
        self._prior = prior
        self._rig = prior if teaches and isinstance(prior, LearntRatio) else None
        self._weight = weight
        self._memory = memory
        self._numerator = self._denominator = 0.0

    @property
    def value(self) -> float:
        """The ratio, always finite and above 0."""
        prior = self._prior.value if isinstance(self._prior, LearntRatio) else self._prior
        return (self._numerator + prior * self._weight) / (self._denominator + self._weight)

    @property
    def sums(self) -> tuple[float, float]:
        """What was learnt: the numerators and the denominators; zeros if nothing was."""
        return self._numerator, self._denominator

    def start_anew(self, numerator: float = 0.0, denominator: float = 0.0) -> None:
        """Forget what was learnt, and go on with these sums."""
        self._numerator = self._denominator = 0.0
        self.learn(numerator, denominator)

    def learn(self, numerator: float, denominator: float) -> None:
        """Take a measurement; one that cannot be (zero, negative, infinite) is left out."""
        if not (0 < numerator < _ABSURD and 0 < denominator < _ABSURD):  # false for "nan" too
            return
        keep = math.exp(-denominator / self._memory)
        self._numerator = self._numerator * keep + numerator
        self._denominator = self._denominator * keep + denominator
        if self._rig is not None:
            self._rig.learn(numerator, denominator)


class Throughput:
    """The speeds of one llama-server, or of a whole rig.

    Attributes:
        prompt: prompt tokens evaluated per second.
        decode: tokens generated per second for one conversation.
        writing: bytes of a conversation's file written per second, see `warm`.
        reading: bytes of one read per second; until that was seen it is taken to be `writing`.
        state_bytes: bytes of such a file per token.
    """

    def __init__(self, rig: Throughput | None = None) -> None:
        self.prompt: LearntRatio = LearntRatio(
            rig.prompt if rig else 300.0, weight=0.5, memory=_PROMPT_MEMORY_S
        )
        self.decode: LearntRatio = LearntRatio(
            rig.decode if rig else 25.0, weight=1.0, memory=_DECODE_MEMORY_S
        )
        self.writing = LearntRatio(_BYTES_PER_S, weight=0.1, memory=10.0)
        self.reading = LearntRatio(self.writing, weight=0.1, memory=10.0, teaches=False)
        self.state_bytes = LearntRatio(_BYTES_PER_TOKEN, weight=1.0, memory=100_000.0)
        self._measured = (0.0, 0.0)

    def start_with(self, *, prompt: float, decode: float) -> None:
        """Take speeds in tokens/s that were measured before, 0 where they are not known.

        They count as half of what is remembered, so that they outweigh the prior and are soon
        outweighed by answers: the card may have got hot, or another model.
        """
        self._measured = (prompt, decode)
        self.prompt.learn(prompt * _PROMPT_MEMORY_S / 2, _PROMPT_MEMORY_S / 2)
        self.decode.learn(decode * _DECODE_MEMORY_S / 2, _DECODE_MEMORY_S / 2)

    def learn(self, usage: Usage) -> None:
        """Take the times of an answer, as far as it told any."""
        self.prompt.learn(usage.evaluated, usage.prompt_s)
        self.decode.learn(usage.generated, usage.decode_s)

    def learnt(self) -> dict[str, tuple[float, float]]:
        """Return the sums of everything that was learnt, by its name."""
        sums = {name: ratio.sums for name, ratio in self._ratios().items()}
        return {name: pair for name, pair in sums.items() if all(pair)}

    def go_on_with(self, learnt: Mapping[str, tuple[float, float]]) -> None:
        """Take what a process before has learnt, as `learnt()` said it, for what was learnt."""
        for name, ratio in self._ratios().items():
            if name in learnt:
                ratio.start_anew(*learnt[name])

    def start_anew(self) -> None:
        """Forget what was learnt: what it was learnt of is not there any more."""
        for ratio in self._ratios().values():
            ratio.start_anew()
        prompt, decode = self._measured
        self.start_with(prompt=prompt, decode=decode)

    def _ratios(self) -> dict[str, LearntRatio]:
        return {
            "prompt": self.prompt,
            "decode": self.decode,
            "writing": self.writing,
            "reading": self.reading,
            "state_bytes": self.state_bytes,
        }


class Lengths:
    """How long the texts of this rig are; the priors are English prose and a short scene.

    Attributes:
        tokens_per_char: tokens of a prompt per character of it.
        answer_tokens: tokens of an answer.
    """

    def __init__(self) -> None:
        self.tokens_per_char = LearntRatio(0.25, weight=500.0, memory=200_000.0)
        self.answer_tokens = LearntRatio(200.0, weight=1.0, memory=30.0)

    def learn(self, usage: Usage, *, prompt_chars: int) -> None:
        """Take the tokens of an answer to a prompt of so many characters."""
        self.tokens_per_char.learn(usage.evaluated + usage.cached, prompt_chars)
        self.answer_tokens.learn(usage.generated, 1.0)

    def answer_of_at_most(self, max_tokens: int | None) -> float:
        """Return how many tokens an answer will probably have."""
        expected = self.answer_tokens.value
        return expected if max_tokens is None else min(expected, float(max_tokens))
