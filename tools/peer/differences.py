"""What may differ between a llama-server and the proxy before one, and whether it does.

An outcome is `passed`, `skipped`, `left out` or `failed` with the line of the test that it failed
at: a test that fails in both ways says as much as it got to.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("differences.toml")
LEFT_OUT = "left out"
PASSED = "passed"

Outcomes = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Tests of which something is known, by a pattern in which `*` stands for anything."""

    tests: str
    reason: str

    def is_for(self, test: str) -> bool:
        """Return whether the pattern is one of this test's id."""
        pattern = ".*".join(map(re.escape, self.tests.split("*")))
        return re.fullmatch(pattern, test, re.DOTALL) is not None


@dataclass(frozen=True, kw_only=True)
class Table:
    """The file of the differences.

    Attributes:
        passed_at_least: with how many tests that pass both ways a run says something.
        left_out: tests that are not run.
        by_design: tests that have to come out differently.
        open: tests that come out differently until something has been mended.
    """

    passed_at_least: int
    left_out: tuple[Entry, ...]
    by_design: tuple[Entry, ...]
    open: tuple[Entry, ...]

    def leaves_out(self, test: str) -> bool:
        """Return whether a test is not to be run."""
        return any(entry.is_for(test) for entry in self.left_out)

    def for_some(self, tests: Collection[str]) -> Table:
        """Return what concerns these tests, of a run that is too small to say something itself."""

        def concerned(entries: Sequence[Entry]) -> tuple[Entry, ...]:
            return tuple(entry for entry in entries if any(map(entry.is_for, tests)))

        return Table(
            passed_at_least=0,
            left_out=concerned(self.left_out),
            by_design=concerned(self.by_design),
            open=concerned(self.open),
        )


def read(path: Path = FILE) -> Table:
    """Return the table.

    Raises:
        ValueError: it is none; the message names what is wrong.
        OSError: it cannot be read.
    """
    content = tomllib.loads(path.read_text())
    if unknown := content.keys() - Table.__annotations__.keys():
        raise ValueError(f"{path.name}: nobody reads {', '.join(sorted(unknown))}")
    kinds = ("left_out", "by_design", "open")
    return Table(
        passed_at_least=int(content.get("passed_at_least", 1)),
        **{kind: tuple(_entry(path, each) for each in content.get(kind, ())) for kind in kinds},
    )


def _entry(path: Path, fields: Mapping[str, str]) -> Entry:
    if fields.keys() != {"tests", "reason"} or not all(fields.values()):
        raise ValueError(f"{path.name}: an entry has `tests` and `reason`, unlike {dict(fields)}")
    return Entry(**fields)


def faults(direct: Outcomes, proxied: Outcomes, table: Table) -> list[str]:
    """Return what is not as the table says, a line for each; nothing where all is."""
    found = [f"{test}: run one way only" for test in sorted(direct.keys() ^ proxied.keys())]
    both = sorted(direct.keys() & proxied.keys())
    differing = [test for test in both if direct[test] != proxied[test]]
    known = (*table.by_design, *table.open)
    found += [
        f"{test}: {direct[test]} directly, {proxied[test]} through the proxy"
        for test in differing
        if not any(entry.is_for(test) for entry in known)
    ]
    found += _not_needed(table.left_out, [test for test in both if direct[test] == LEFT_OUT], both)
    found += _not_needed(known, differing, both)
    passed = sum(direct[test] == proxied[test] == PASSED for test in both)
    if passed < table.passed_at_least:
        found.append(
            f"{passed} tests pass both ways, and {table.passed_at_least} should: llama-server, the"
            " counting model or the tests' surroundings are broken"
        )
    return found


def _not_needed(
    entries: Sequence[Entry], with_cause: Sequence[str], run: Sequence[str]
) -> list[str]:
    found = []
    for entry in entries:
        meant = [test for test in run if entry.is_for(test)]
        if not meant:
            found.append(f"{entry.tests}: there is no such test; remove the entry")
        found += [
            f"{test}: as it should be, and {entry.tests!r} says otherwise; remove that or narrow it"
            for test in meant
            if test not in with_cause
        ]
    return found
