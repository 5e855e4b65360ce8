"""Which of the measured candidates is best.

A turn of a chat evaluates some prompt tokens and generates an answer:

    seconds of a turn = prompt tokens ÷ prompt speed + answer tokens ÷ decode speed

The least seconds win. Measurements that differ by less than `NOISE` count as equal: then what runs
now stays, so that tuning again changes nothing without a reason; else the smaller batch is taken,
after which the other slots get their tokens, and then what takes less VRAM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.tuning.candidate import Candidate
from heartcode_models.tuning.card import TunedCard
from heartcode_models.tuning.grid import needed

#: llama-bench's runs of the same settings differ by about 1 % on an idle host.
NOISE = 0.02


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a turn of a chat costs: prompt tokens that no cache holds, and the answer's."""

    prompt_tokens: int
    answer_tokens: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A candidate and its speeds."""

    candidate: Candidate
    prompt: float
    decode: float

    def seconds(self, turn: Turn) -> float:
        """Seconds of a turn."""
        return turn.prompt_tokens / self.prompt + turn.answer_tokens / self.decode

    @classmethod
    def from_data(cls, data: Mapping[str, Any], where: str) -> "Measured":
        """Check and take one of the results of ``heartcode.gpu.bench``.

        Raises:
            ModelError: it is not what that writes.
        """
        try:
            prompt, decode = float(data["prompt"]), float(data["decode"])
        except (KeyError, TypeError, ValueError):
            raise ModelError(f"{where}: {data!r} is no measurement") from None
        if not (0 < prompt < float("inf") and 0 < decode < float("inf")):
            raise ModelError(f"{where}: {data!r} is no measurement")
        return cls(candidate=Candidate.from_data(data, where), prompt=prompt, decode=decode)


def best(card: TunedCard, model: Model, results: Sequence[Measured], turn: Turn) -> Measured:
    """The best of at least one result."""
    enough = min(result.seconds(turn) for result in results) * (1 + NOISE)
    equals = [result for result in results if result.seconds(turn) <= enough]
    return min(
        equals,
        key=lambda result: (
            result.candidate != card.current,
            result.candidate.n_batch,
            needed(card, model, result.candidate),
            result.seconds(turn),
        ),
    )
