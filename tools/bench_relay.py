#!/usr/bin/env python3
"""Measures what the proxy costs for each token, beside nginx and LiteLLM in the same run.

    make bench-relay

Every relay gets the same work: streams of numbered tokens from a synthetic upstream, which the
clients count. Three figures come of it: the CPU time of all of a relay's processes divided by the
tokens relayed; the time to the first token that it adds; the memory for many streams at a time.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_models.cache import cache_directory

from tools.bench.measuring import (
    LATE_S,
    Upstream,
    allow_many_connections,
    first_token_ms,
    load,
    table,
)
from tools.bench.relays import (
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

# A full rig; the streams of the memory figure need more.
_BACKENDS = 12
_BACKENDS_FOR_MANY = 36


def cost_us(relay: Relay, *, streams: int, tokens: int, rate: float) -> float:
    """Return the CPU time for each token in microseconds."""
    before = relay.cpu_s()
    load(relay.url, streams=streams, tokens=tokens, rate=rate)
    return (relay.cpu_s() - before) / (streams * tokens) * 1e6


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each cost is measured")
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


def main() -> None:
    """Measure, and print the tables."""
    given = options()
    if shutil.which("nginx") is None:
        sys.exit("nginx is missing, which the figures are relative to: apt-get install nginx-light")
    allow_many_connections()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        ports = free_ports(_BACKENDS_FOR_MANY)
        upstream = stack.enter_context(Upstream(ports, apart=given.apart))
        LiteLLM.program = (None if given.no_litellm else install_litellm(cache_directory())) or ""
        if not LiteLLM.program:
            print("LiteLLM is left out.", file=sys.stderr)
        HeartCode.python = install_heartcode(cache_directory())
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

    rows = [["relay", "CPU µs per token", "÷ nginx", "adds to the first token, ms (median, p95)"]]
    for name, values in costs.items():
        # Round by round: what slows the machine for a while slows both.
        ratios = [cost / base for cost, base in zip(values, costs[Nginx.name], strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        median, late = (mine - bare for mine, bare in zip(added[name], direct, strict=True))
        rows.append([name, f"{statistics.median(values):.1f}", ratio, f"{median:.1f}, {late:.1f}"])
    print(table(rows))
    print(f"\nMemory of HeartCode's worker with {given.many} streams at a time: {many_mb:.0f} MB.")
    print(f"The upstream's worst token was {worst_late_s * 1e3:.0f} ms late.")
    print(f"HeartCode ran with {HeartCode.python}.")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}.")
    if worst_late_s > LATE_S:
        sys.exit("The upstream did not keep its time: these figures say nothing.")


if __name__ == "__main__":
    main()
