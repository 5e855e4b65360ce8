"""What was measured: quantiles, tables, files, and the comparison of two runs."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heartcode_benchmark.asking import Answer

FORMAT = "heartcode-benchmark/1"


class ResultsError(Exception):
    """A file that is no result of this program."""


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Of some values, in their unit; all None without values."""

    median: float | None = None
    p90: float | None = None
    p99: float | None = None
    highest: float | None = None

    @classmethod
    def of(cls, values: Iterable[float]) -> Quantiles:
        """Return the quantiles, interpolated between neighbours."""
        ordered = sorted(values)
        if not ordered:
            return cls()
        if len(ordered) == 1:
            return cls(median=ordered[0], p90=ordered[0], p99=ordered[0], highest=ordered[0])
        cuts = statistics.quantiles(ordered, n=100, method="inclusive")
        return cls(median=cuts[49], p90=cuts[89], p99=cuts[98], highest=ordered[-1])


@dataclass(kw_only=True)
class Level:
    """The answers at one number of requests at a time.

    Attributes:
        concurrency: that number.
        seconds: from the first request to the last answer.
        is_complete: whether all requests were asked and answered, well or badly.
    """

    concurrency: int
    seconds: float
    answers: list[Answer] = field(default_factory=list)
    is_complete: bool = True

    @property
    def good(self) -> list[Answer]:
        """The answers that came to their end."""
        return [answer for answer in self.answers if not answer.error]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of complete answers in sum, for each second of the run."""
        return sum(a.tokens for a in self.good) / self.seconds if self.seconds else 0.0

    @property
    def cached_share(self) -> float | None:
        """Which part of the prompts' tokens came from caches; None where no server told."""
        prompt = sum(answer.prompt_tokens for answer in self.good)
        return sum(a.cached_tokens for a in self.good) / prompt if prompt else None

    def errors(self) -> dict[str, int]:
        """Return how many answers failed, by kind."""
        return dict(Counter(answer.error for answer in self.answers if answer.error).most_common())

    def details(self) -> dict[str, str]:
        """Return what was said about the first failure of each kind."""
        said: dict[str, str] = {}
        for answer in self.answers:
            if answer.error and answer.detail:
                said.setdefault(answer.error, answer.detail)
        return said

    def quantities(self) -> dict[str, Quantiles]:
        """Return the quantiles of each quantity, by its name with unit."""
        good = self.good
        speeds = (a.tokens / a.total_s for a in good if a.tokens and a.total_s)
        return {
            "first token, s": Quantiles.of(
                a.first_token_s for a in good if a.first_token_s is not None
            ),
            "between tokens, ms": Quantiles.of(gap * 1e3 for a in good for gap in a.gaps_s),
            "whole answer, s": Quantiles.of(a.total_s for a in good),
            "tokens/s, one answer": Quantiles.of(speeds),
        }


@dataclass(kw_only=True)
class Results:
    """A whole run.

    Attributes:
        asked: what was asked and of whom, without the key.
        levels: what came of it, in the order of the run.
    """

    asked: dict[str, Any]
    levels: list[Level]

    def write(self, path: Path) -> None:
        """Write all that was seen as JSON."""
        content = {
            "format": FORMAT,
            "asked": self.asked,
            "levels": [asdict(x) for x in self.levels],
        }
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` has written.

        Raises:
            ResultsError: when the file cannot be read or is something else.
        """
        try:
            content = json.loads(path.read_text())
            if content["format"] != FORMAT:
                raise ResultsError(f"{path}: not a result of this version of benchmark.py")
            levels = [
                Level(**{**level, "answers": [Answer(**a) for a in level["answers"]]})
                for level in content["levels"]
            ]
            return cls(asked=content["asked"], levels=levels)
        except OSError as error:
            raise ResultsError(f"{path}: {error.strerror}") from error
        except (ValueError, LookupError, TypeError) as error:
            raise ResultsError(f"{path}: not a result of benchmark.py --json") from error


def report(level: Level) -> str:
    """Return the table for one level."""
    good, errors = level.good, level.errors()
    counted = f"{len(good)} answered, {sum(errors.values())} failed"
    if not level.is_complete:
        counted += ", interrupted"
    lines = [
        f"{level.concurrency} at a time, {level.seconds:.1f} s: {counted}",
        _row("", ("median", "90 %", "99 %", "highest")),
    ]
    for name, q in level.quantities().items():
        lines.append(_row(name, [_number(v) for v in (q.median, q.p90, q.p99, q.highest)]))
    lines.append(f"{level.tokens_per_s:.1f} tokens/s in sum")
    if level.cached_share is not None:
        prompt = sum(answer.prompt_tokens for answer in good)
        lines.append(f"{level.cached_share:.0%} of {prompt} prompt tokens came from caches")
    details = level.details()
    for kind, count in errors.items():
        lines.append(f"{count} x {kind}" + (f": {details[kind]}" if kind in details else ""))
    return "\n".join(lines)


def compare(before: Results, after: Results) -> str:
    """Return the medians of both runs side by side, and their ratio.

    Raises:
        ResultsError: when no number of requests at a time occurs in both.
    """
    pairs = [
        (one, other)
        for one in before.levels
        for other in after.levels
        if one.concurrency == other.concurrency
    ]
    if not pairs:
        raise ResultsError("the two runs have no --concurrency in common")
    lines = []
    for one, other in pairs:
        lines += [f"{one.concurrency} at a time", _row("", ("before", "after", "ratio"))]
        firsts, seconds = one.quantities(), other.quantities()
        values = [(name, firsts[name].median, seconds[name].median) for name in firsts]
        values.append(("tokens/s in sum", one.tokens_per_s, other.tokens_per_s))
        for name, old, new in values:
            ratio = new / old if old and new is not None else None
            lines.append(_row(name, (_number(old), _number(new), _number(ratio))))
        failed = [len(level.answers) - len(level.good) for level in (one, other)]
        lines.append(_row("failed", [str(count) for count in failed]))
    return "\n".join(lines)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"{name:<22}" + "".join(f"{cell:>10}" for cell in cells)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 1 else f"{value:.2f}"
