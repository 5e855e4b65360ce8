"""What is said of the checks, for people at a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import TextIO

_MOST = 200
_GREEN, _YELLOW, _RED, _PLAIN = "\033[32m", "\033[33m", "\033[31m", "\033[0m"


def printable(text: object) -> str:
    """Return it as what a server sent may be shown: it must not steer the terminal, nor fill it."""
    shown = "".join(" " if unicodedata.category(c) == "Cc" else c for c in str(text))
    return f"{shown[:_MOST]}..." if len(shown) > _MOST else shown


class Report:
    """Writes a line for each check as it ends, and counts what failed.

    Attributes:
        failed: how many checks failed.
        is_degraded: whether one has found that something is missing.
    """

    def __init__(self, out: TextIO, *, in_colour: bool) -> None:
        self.failed = 0
        self.is_degraded = False
        self._out = out
        self._in_colour = in_colour

    def line(self, text: str = "") -> None:
        """Write a line of its own."""
        print(text, file=self._out, flush=True)

    def passed(self, check: str, what: str) -> None:
        """Say of a check that all is well."""
        self._verdict("ok    ", _GREEN, check, what)

    def warn(self, check: str, reason: str, advice: str) -> None:
        """Say that it serves with less than it has, and what to do."""
        self.is_degraded = True
        self._verdict("warn  ", _YELLOW, check, reason, advice)

    def fail(self, check: str, reason: str, advice: str = "") -> None:
        """Say what does not work, and what to do."""
        self.failed += 1
        self._verdict("FAIL  ", _RED, check, reason, advice)

    def _verdict(self, word: str, colour: str, check: str, what: str, advice: str = "") -> None:
        self.line(f"{self._coloured(word, colour)}{check:<11} {printable(what)}")
        if advice:
            self.line(f"{'':18}{advice}")

    def _coloured(self, text: str, colour: str) -> str:
        """Colour the word alone, not the blanks behind it."""
        word = text.rstrip()
        return f"{colour}{word}{_PLAIN}{text[len(word) :]}" if self._in_colour else text

    def table(self, rows: Sequence[Sequence[str]], *, states: int) -> None:
        """Write rows of equal lengths, the first of which are headings, between empty lines.

        The column `states` is green where it says "up", else red.
        """
        rows = [[printable(cell) for cell in row] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows)]  # noqa: B905 (Python 3.9)
        self.line()
        for number, row in enumerate(rows):
            cells = [f"{cell:<{width}}" for cell, width in zip(row, widths)]  # noqa: B905
            if number:
                colour = _GREEN if row[states] == "up" else _RED
                cells[states] = self._coloured(cells[states], colour)
            cells[-1] = row[-1]
            self.line("  ".join(cells))
        self.line()
