#!/usr/bin/env python3
"""Measures what the proxy costs for each token, beside nginx, Go's proxy and LiteLLM in one run.

    make bench-relay
    make bench-relay ARGS='--no-litellm --rounds 3 --streams 4000'
    make bench-relay ARGS='--quota 20'

Every relay gets the same work: streams of numbered tokens from a synthetic upstream, which the
clients count. These figures come of it: the CPU time of all of a relay's processes divided by the
tokens relayed; the time to the first token that it adds, to streams that come one by one and to
those that come at once; the memory for many streams at a time.

With --quota every relay gets that share of one core instead, as on a rig's slow processor, and more
and more streams until their tokens come late. It needs root.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode_models.cache import cache_directory

from tools.bench.measuring import (
    LATE_S,
    Upstream,
    allow_many_connections,
    load,
    table,
)
from tools.bench.relays import (
    Direct,
    Go,
    HeartCode,
    HeartCodeBefore,
    HeartCodeForMany,
    LiteLLM,
    Nginx,
    Relay,
    build_go,
    free_ports,
    install_heartcode,
    install_litellm,
)
from tools.bench.slow_core import SlowCore, SlowCoreError
from tools.bench.slow_rig import climb, report

_BACKENDS = 12  # a full rig
_STREAMS = 100
_FEW = 16
_RATE = 25
# How many of the many streams begin in a second, and how long all of them go on together. By that
# much a relay on a busy machine may begin later.
_BEGIN_PER_S = 250
_TOGETHER_S = 15


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=whole(1, 100), default=9, help="how often each cost is measured"
    )
    parser.add_argument(
        "--tokens", type=whole(2, 10_000), default=100, help="how many each stream has"
    )
    parser.add_argument(
        "--streams",
        type=whole(1, 7900),
        default=2000,
        help="streams at a time for the memory figure",
    )
    parser.add_argument(
        "--apart",
        action="store_true",
        help="let no two streams of a backend get their tokens together, which is dearer for all",
    )
    parser.add_argument("--no-litellm", action="store_true", help="leave it out")
    parser.add_argument(
        "--before", type=Path, metavar="DIRECTORY", help="another checkout to compare with"
    )
    parser.add_argument(
        "--quota",
        type=whole(1, 100),
        metavar="PERCENT",
        help="give each relay this share of one core, and see how many tokens it carries",
    )
    given = parser.parse_args(arguments)
    if given.before is not None and not (given.before / "app" / "heartcode").is_dir():
        parser.error(f"argument --before: {given.before} is no checkout: it has no app/heartcode")
    return given


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a reader for a number of the command line."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not lowest <= int(text) <= highest:
            raise argparse.ArgumentTypeError(f"{text} is no number from {lowest} to {highest}")
        return int(text)

    return read


def install(given: argparse.Namespace) -> list[type[Relay]]:
    """Make ready what can be measured on this machine, and return it; nginx is the first."""
    if shutil.which("nginx") is None:
        sys.exit("nginx is missing, which the figures are relative to: apt-get install nginx-light")
    cache = cache_directory()
    HeartCode.python = install_heartcode(cache)
    kinds: list[type[Relay]] = [Nginx]
    if (go := build_go(cache)) is None:
        print("Go is left out: apt-get install golang-go", file=sys.stderr)
    else:
        Go.program, Go.version = go
        kinds.append(Go)
    if given.before is not None:
        HeartCodeBefore.app = given.before.absolute() / "app"
        kinds.append(HeartCodeBefore)
    kinds.append(HeartCode)
    if given.no_litellm or given.quota or not (program := install_litellm(cache)):
        print("LiteLLM is left out.", file=sys.stderr)
    else:
        LiteLLM.program = program
        kinds.append(LiteLLM)
    return kinds


def cost_us(relay: Relay, *, tokens: int) -> float:
    """Return the CPU time for each token in microseconds."""
    before_s = relay.cpu_s()
    load(relay.url, streams=_STREAMS, tokens=tokens, rate=_RATE)
    return (relay.cpu_s() - before_s) / (_STREAMS * tokens) * 1e6


def measure_costs(relays: Sequence[Relay], *, rounds: int, tokens: int) -> dict[str, list[float]]:
    """Return the costs of each relay, measured in turns, so that all see the same machine."""
    costs: dict[str, list[float]] = {relay.name: [] for relay in relays}
    for relay in relays:
        load(relay.url, streams=20, tokens=20, rate=_RATE)  # warm
    for _ in range(rounds):
        for relay in relays:
            costs[relay.name].append(cost_us(relay, tokens=tokens))
            print(f"  {relay.name}: {costs[relay.name][-1]:.1f} µs", file=sys.stderr)
    return costs


def first_tokens_ms(
    urls: Mapping[str, str], *, streams: int, start_within: float, rounds: int
) -> dict[str, list[list[float]]]:
    """Return the times to the first token behind each URL in ms, round by round, in turns."""
    seen: dict[str, list[list[float]]] = {name: [] for name in urls}
    work = {"streams": streams, "tokens": 20, "rate": _RATE, "start_within": start_within}
    for _ in range(rounds):
        for name, url in urls.items():
            seen[name].append([seconds * 1e3 for seconds in load(url, **work).first_token_s])
    return seen


def added_ms(mine: Sequence[Sequence[float]], bare: Sequence[Sequence[float]]) -> str:
    """Return by how much median and 95th percentile of all rounds are later than with no relay."""

    def both(rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
        times = [time_ms for each in rounds for time_ms in each]
        return statistics.median(times), statistics.quantiles(times, n=20)[-1]

    median, late = (one - other for one, other in zip(both(mine), both(bare), strict=True))
    return f"{median:.1f} (95 %: {late:.1f})"


def memory_mb(relay: Relay, streams: int) -> float:
    """Return the largest process of a relay in MB, with so many streams at a time.

    Raises:
        SystemExit: when they were not all at a time.
    """
    begin_s = streams / _BEGIN_PER_S
    tokens = math.ceil(begin_s) + _TOGETHER_S
    relay.wait_until_ready("/health")
    outcome = load(relay.url, streams=streams, tokens=tokens, rate=1, start_within=begin_s)
    if outcome.at_a_time < streams:
        sys.exit(
            f"{relay.name} had {outcome.at_a_time} streams at a time, not {streams}: "
            "it was too slow to begin with them, or this machine too busy"
        )
    return relay.peak_mb()


def compared(values: Sequence[float], base: Sequence[float]) -> str:
    """Return the median ratio and its range, round by round: what slows the machine slows both."""
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def compare(given: argparse.Namespace, kinds: Sequence[type[Relay]]) -> float:
    """Print the figures of all relays; return how late the upstream's worst token was, in s."""
    # No backend takes more than HeartCodeForMany has slots.
    ports = free_ports(max(_BACKENDS, math.ceil(given.streams / HeartCodeForMany.slots) + 4))
    rig = ports[:_BACKENDS]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        upstream = stack.enter_context(Upstream(ports, apart=given.apart))
        relays = [stack.enter_context(kind(directory, rig)) for kind in kinds]
        for relay in relays:
            relay.wait_until_ready("/health")
        costs = measure_costs(relays, rounds=given.rounds, tokens=given.tokens)
        urls = {relay.name: relay.url for relay in relays}
        few = first_tokens_ms(
            {"direct": Direct(ports).url, **urls}, streams=_FEW, start_within=0.8, rounds=5
        )
        together = first_tokens_ms(urls, streams=_STREAMS, start_within=0, rounds=5)
        worst_late_s = upstream.end()
    memory = measure_memory(given.streams, ports, kinds)

    head = ["relay", "CPU µs per token", "÷ nginx", f"adds to the first token ({_FEW} streams), ms"]
    head += [f"first token of {_STREAMS} at once, ms", "÷ nginx", f"MB, {given.streams} streams"]
    rows = [head]
    at_once = {name: [statistics.median(times) for times in together[name]] for name in costs}
    rows += [
        [
            name,
            f"{statistics.median(costs[name]):.1f}",
            compared(costs[name], costs[Nginx.name]),
            added_ms(few[name], few["direct"]),
            f"{statistics.median(at_once[name]):.1f}",
            compared(at_once[name], at_once[Nginx.name]),
            f"{memory[name]:.0f}" if name in memory else "-",
        ]
        for name in costs
    ]
    print(table(rows))
    print(f"\n{_STREAMS} streams of {given.tokens} tokens, {given.rounds} rounds.")
    return worst_late_s


def measure_memory(
    streams: int, ports: Sequence[int], kinds: Sequence[type[Relay]]
) -> dict[str, float]:
    """Return the memory of fresh relays for many streams, in MB; LiteLLM is not up to so many."""
    seen: dict[str, float] = {}
    for kind in kinds:
        if kind is LiteLLM or kind is HeartCodeBefore:
            continue
        many = HeartCodeForMany if kind is HeartCode else kind
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as directory,
            Upstream(ports),
            many(Path(directory), ports) as relay,
        ):
            seen[kind.name] = memory_mb(relay, streams)
            print(f"  {kind.name}: {seen[kind.name]:.0f} MB", file=sys.stderr)
    return seen


def slow(percent: int, kinds: Sequence[type[Relay]]) -> float:
    """Print what each relay carries on a share of one core; return as `compare` does."""
    ports = free_ports(_BACKENDS)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        try:
            core = stack.enter_context(SlowCore(percent))
        except SlowCoreError as error:
            sys.exit(str(error))
        # The other cores are for upstream and clients.
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {core.cpu} or {core.cpu})
        upstream = stack.enter_context(Upstream(ports))
        climbs = {}
        for kind in kinds:
            many = HeartCodeForMany if kind is HeartCode else kind
            with many(directory, ports) as relay:
                relay.wait_until_ready("/health")
                load(relay.url, streams=20, tokens=20, rate=_RATE)  # warm
                climbs[kind.name] = climb(relay, core)
            print(f"  {kind.name}: {len(climbs[kind.name])} loads", file=sys.stderr)
        worst_late_s = upstream.end()
    print(report(climbs, percent))
    return worst_late_s


def main() -> None:
    """Measure, and print the tables."""
    given = options()
    allow_many_connections(given.streams)
    kinds = install(given)
    busy = os.getloadavg()[0]
    worst_late_s = slow(given.quota, kinds) if given.quota else compare(given, kinds)
    print(f"The upstream's worst token was {worst_late_s * 1e3:.0f} ms late.")
    print(f"HeartCode ran with {HeartCode.python}.")
    if Go in kinds:
        print(f"Go's net/http/httputil.ReverseProxy was built with {Go.version}.")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {busy:.1f} at the start, "
        f"{time.strftime('%Y-%m-%d')}."
    )
    if worst_late_s > LATE_S:
        sys.exit("The upstream did not keep its time: these figures say nothing.")


if __name__ == "__main__":
    main()
