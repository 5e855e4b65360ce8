"""What the benchmarks have in common: upstream, load, time to the first token, tables."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self, cast

_ROOT = Path(__file__).parents[2]
# A connection has two descriptors in a relay, and one each in client and upstream.
_DESCRIPTORS = 8192
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


def load(url: str, **work: float) -> list[float]:
    """Put load on `url`; return the times to the first token in seconds.

    Raises:
        SystemExit: when a stream was not complete.
    """
    options = [f"--{name.replace('_', '-')}={value:g}" for name, value in work.items()]
    command = [sys.executable, "-m", "tools.bench.load", url, *options]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    if result["errors"]:
        sys.exit(f"{url}: {len(result['errors'])} streams failed, the first: {result['errors'][0]}")
    first_token_s: list[float] = result["first_token_s"]
    return first_token_s


def first_token_ms(url: str, *, streams: int, repeats: int) -> tuple[float, float]:
    """Return median and 95th percentile of the time to the first token, in milliseconds."""
    times = [
        seconds * 1e3
        for _ in range(repeats)
        for seconds in load(url, streams=streams, tokens=20, rate=25, start_within=0.8)
    ]
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def table(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table; the first one is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def allow_many_connections() -> None:
    """Let this process and its children have as many descriptors as the benchmarks need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _DESCRIPTORS)), hard))
