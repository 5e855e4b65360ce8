#!/usr/bin/env python3
"""Lets a synthetic day of role play pass for fleets of several sizes, with the rigs' own routing.

    tools/simulate_fleet.py --rigs 4,100,1000

The rigs' pools, queues, policies and caches are the program's own; nginx's ring, clients and cards
are simulated (tools/simulation). Of a large fleet's day only the hours around the evening pass,
which are enough requests. The same seed gives the same figures.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from tools.bench.measuring import table
from tools.simulation.fleet import Figures, Fleet, Plan

# A minute of CPU time.
_REQUESTS = 100_000
_HEAD = [
    *("rigs", "cards", "load", "asked at most", "hours", "requests", "refused", "moved"),
    *("reuse", "at home", "busiest rig", "queued > 1 s", "> 10 s"),
    *("first token, median / 99 %", "rigs asked, mean / 99 % / most"),
]


def hours(plan: Plan) -> float:
    """Return how many hours have about `_REQUESTS`: a slot serves one in about 8 s."""
    per_hour = plan.rigs * plan.cards * plan.slots * plan.load * 3600 / 8
    return min(24.0, max(0.25, _REQUESTS / per_hour))


def row(plan: Plan, figures: Figures) -> list[str]:
    """Return a line of the table."""
    late = figures.late()
    first, tries = figures.first_token_s, figures.tries
    return [
        f"{plan.rigs:,}",
        f"{plan.rigs * plan.cards:,}",
        f"{plan.load:.0%}",
        str(plan.max_tries or "all"),
        f"{plan.hours:.1f}",
        f"{figures.requests:,}",
        str(figures.refused),
        str(figures.moved),
        f"{figures.reuse:.1%}",
        f"{figures.at_home / max(1, figures.later_turns):.1%}",
        f"+ {figures.imbalance(plan.rigs):.0%}",
        f"{late[0]:.2%}",
        f"{late[1]:.2%}",
        f"{statistics.median(first):.2f} / {_percentile(first, 99):.1f} s",
        f"{statistics.fmean(tries):.2f} / {_percentile(tries, 99):.0f} / {max(tries)}",
    ]


def _percentile(values: list[float] | list[int], percent: int) -> float:
    ordered = sorted(values)
    return float(ordered[min(len(ordered) - 1, len(ordered) * percent // 100)])


def main() -> None:
    """Simulate, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rigs", default="4,100,1000", help="how many, separated by commas")
    parser.add_argument("--cards", type=int, default=6, help="of each rig (default: 6)")
    parser.add_argument("--load", default="0.7", help="shares of the slots at work in the evening")
    parser.add_argument("--failing", type=float, default=0.01, help="share of the cards that fail")
    parser.add_argument("--max-tries", default="0", help="rigs asked in the first stage; 0: all")
    parser.add_argument(
        "--hours", type=float, default=0, help="around the evening (default: 100,000 requests)"
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rows = []
    for rigs in map(int, given.rigs.split(",")):
        for load in map(float, given.load.split(",")):
            for tries in map(int, given.max_tries.split(",")):
                plan = Plan(
                    rigs=rigs,
                    cards=given.cards,
                    load=load,
                    failing=given.failing,
                    max_tries=tries,
                    seed=given.seed,
                )
                plan = Plan(**{**vars(plan), "hours": given.hours or hours(plan)})
                began = time.process_time()
                rows.append(row(plan, Fleet(plan).run()))
                took = time.process_time() - began
                print(f"{rigs} rigs: {took:.0f} s of CPU time", file=sys.stderr)
    print(table([_HEAD, *rows]))


if __name__ == "__main__":
    main()
