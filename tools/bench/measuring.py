"""What the benchmarks have in common: upstream, load, time to the first token, tables."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self, cast

from tools.bench.load import Outcome

_ROOT = Path(__file__).parents[2]
# What a program has open besides its streams.
_OTHER_DESCRIPTORS = 256
# The upstream is to blame for a run in which a token was later than this.
LATE_S = 0.25


class Upstream:
    """The synthetic upstream, as a process of its own."""

    def __init__(self, ports: Sequence[int], *, apart: bool = False) -> None:
        options = ["--apart"] if apart else []
        command = [sys.executable, "-m", "tools.bench.upstream", *options, *map(str, ports)]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        self._output: IO[str] = cast("IO[str]", self._process.stdout)
        self._output.readline()

    def end(self) -> float:
        """End it; return how late its worst token was, in seconds."""
        self.__exit__()
        reports = [json.loads(line) for line in self._output]
        return max((report["worst_late_s"] for report in reports), default=0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)


def load(url: str, **work: float) -> Outcome:
    """Put load on `url`: the streams, tokens, rate and start_within of `tools.bench.load`.

    Raises:
        SystemExit: when a stream was not complete.
    """
    options = [f"--{name.replace('_', '-')}={value:g}" for name, value in work.items()]
    command = [sys.executable, "-m", "tools.bench.load", url, *options]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    outcome = Outcome(**json.loads(done.stdout))
    if outcome.errors:
        sys.exit(f"{url}: {len(outcome.errors)} streams failed, the first: {outcome.errors[0]}")
    return outcome


def first_token_ms(url: str, *, streams: int, repeats: int) -> tuple[float, float]:
    """Return median and 95th percentile of the time to the first token, in milliseconds."""
    work = {"streams": streams, "tokens": 20, "rate": 25, "start_within": 0.8}
    times = [seconds * 1e3 for _ in range(repeats) for seconds in load(url, **work).first_token_s]
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def table(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table; the first one is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def allow_many_connections(streams: int) -> None:
    """Let this process and its children have the descriptors that a relay of `streams` needs.

    Raises:
        SystemExit: when this user may not have so many.
    """
    needed = 2 * streams + _OTHER_DESCRIPTORS  # a stream has two sockets in a relay
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard < needed and os.geteuid() != 0:
        sys.exit(
            f"{streams} streams need {needed} open files, and this user may have {hard}: set "
            "`nofile` in /etc/security/limits.conf, or run the benchmark as root"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
