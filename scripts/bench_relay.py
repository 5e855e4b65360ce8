#!/usr/bin/env python3
"""Measures what the proxy costs for each token, beside nginx and LiteLLM in the same run.

    make bench-relay

Every relay gets the same work: streams of numbered tokens from a synthetic upstream, which the
clients count. Three figures come of it: the CPU time of all of a relay's processes divided by the
tokens relayed; the time to the first token that it adds; the memory for many streams at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Self, cast

from benchlib.relays import (
    Direct,
    HeartCode,
    HeartCodeForMany,
    LiteLLM,
    Nginx,
    Relay,
    free_ports,
    install_heartcode,
    install_litellm,
)

_HERE = Path(__file__).parent
# A full rig; the streams of the memory figure need more.
_BACKENDS = 12
_BACKENDS_FOR_MANY = 36
# A connection has two descriptors in a relay, and one each in client and upstream.
_DESCRIPTORS = 8192
# The upstream is to blame for a run in which a token was later than this.
_LATE_S = 0.25


class Upstream:
    """The synthetic upstream, as a process of its own."""

    def __init__(self, ports: Sequence[int], *, apart: bool = False) -> None:
        options = ["--apart"] if apart else []
        command = [sys.executable, "-m", "benchlib.upstream", *options, *map(str, ports)]
        self._process = subprocess.Popen(command, cwd=_HERE, stdout=subprocess.PIPE, text=True)
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
    command = [sys.executable, "-m", "benchlib.load", url, *options]
    done = subprocess.run(command, cwd=_HERE, stdout=subprocess.PIPE, text=True, check=True)
    result = json.loads(done.stdout)
    if result["errors"]:
        sys.exit(f"{url}: {len(result['errors'])} streams failed, the first: {result['errors'][0]}")
    first_token_s: list[float] = result["first_token_s"]
    return first_token_s


def cost_us(relay: Relay, *, streams: int, tokens: int, rate: float) -> float:
    """Return the CPU time for each token in microseconds."""
    before = relay.cpu_s()
    load(relay.url, streams=streams, tokens=tokens, rate=rate)
    return (relay.cpu_s() - before) / (streams * tokens) * 1e6


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


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each cost is measured")
    parser.add_argument("--many", type=int, default=2000, help="streams for the memory figure")
    parser.add_argument(
        "--apart",
        action="store_true",
        help="let no two streams of a backend get their tokens together, which is dearer for all",
    )
    parser.add_argument("--no-litellm", action="store_true", help="leave it out")
    return parser.parse_args()


def measure_costs(relays: Sequence[Relay], rounds: int) -> dict[str, list[float]]:
    """Return the costs of each relay, measured in turns, so that all see the same machine."""
    costs: dict[str, list[float]] = {relay.name: [] for relay in relays}
    for relay in relays:
        load(relay.url, streams=20, tokens=20, rate=25)  # warm
    for _ in range(rounds):
        for relay in relays:
            costs[relay.name].append(cost_us(relay, streams=100, tokens=100, rate=25))
            print(f"  {relay.name}: {costs[relay.name][-1]:.1f} µs", file=sys.stderr)
    return costs


def cache() -> Path:
    """Return the directory that the other programs of this project use too."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("HEARTCODE_CACHE_DIR", home / "heartcode"))


def main() -> None:
    """Measure, and print the tables."""
    given = options()
    if shutil.which("nginx") is None:
        sys.exit("nginx is missing, which the figures are relative to: apt-get install nginx-light")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _DESCRIPTORS)), hard))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ports = free_ports(_BACKENDS_FOR_MANY)
        upstream = stack.enter_context(Upstream(ports, apart=given.apart))
        LiteLLM.program = (None if given.no_litellm else install_litellm(cache())) or ""
        if not LiteLLM.program:
            print("LiteLLM is left out.", file=sys.stderr)
        HeartCode.python = install_heartcode(cache())
        kinds = [Nginx, HeartCode, *([LiteLLM] if LiteLLM.program else [])]
        rig = ports[:_BACKENDS]
        relays: list[Relay] = [stack.enter_context(kind(directory, rig)) for kind in kinds]
        for relay in relays:
            relay.wait_until_ready("/health")
        costs = measure_costs(relays, given.rounds)
        direct = first_token_ms(Direct(ports).url, streams=16, repeats=5)
        added = {r.name: first_token_ms(r.url, streams=16, repeats=5) for r in relays}
        with HeartCodeForMany(directory, ports) as heartcode:
            heartcode.wait_until_ready("/health")
            load(heartcode.url, streams=given.many, tokens=15, rate=1, start_within=8)
            many_mb = heartcode.peak_mb()
        worst_late_s = upstream.end()

    base = statistics.median(costs[Nginx.name])
    rows = [["relay", "CPU µs per token", "÷ nginx", "adds to the first token, ms (median, p95)"]]
    for name, values in costs.items():
        cost = statistics.median(values)
        median, late = (mine - bare for mine, bare in zip(added[name], direct, strict=True))
        rows.append([name, f"{cost:.1f}", f"{cost / base:.2f}", f"{median:.1f}, {late:.1f}"])
    print(table(rows))
    print(f"\nMemory of HeartCode's worker with {given.many} streams at a time: {many_mb:.0f} MB.")
    print(f"The upstream's worst token was {worst_late_s * 1e3:.0f} ms late.")
    print(f"HeartCode ran with {HeartCode.python}.")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}.")
    if worst_late_s > _LATE_S:
        sys.exit("The upstream did not keep its time: these figures say nothing.")


if __name__ == "__main__":
    main()
