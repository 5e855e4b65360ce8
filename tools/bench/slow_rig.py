"""What a relay carries on a slow core: more and more streams, until their tokens come late.

A stream makes 20 tokens a second, about what one of a rig's cards makes for one. What is carried
beyond one stream for each of 12 cards says how much is left.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tools.bench.measuring import load, table
from tools.bench.relays import Relay
from tools.bench.slow_core import SlowCore

CARDS = 12
RATE = 20.0
STREAMS_PER_CARD = (1, 4, 8, 16, 32)
# A relay keeps up while 99 tokens of 100 come before the next one is due, within its quota: a load
# of a few seconds does not show yet that it takes more than there is.
_LATE_S = 1 / RATE
_TOKENS = 120
_START_WITHIN_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """One load on one relay, and what came of it; times in seconds."""

    streams: int
    cpu_s: float
    late_s: float
    first_token_s: float

    @property
    def tokens_per_second(self) -> float:
        """Return what all cards make together while all streams run."""
        return self.streams * RATE

    @property
    def core(self) -> float:
        """Return the part of one whole core that this many tokens and their requests take."""
        return self.cpu_s / (self.streams * _TOKENS) * self.tokens_per_second

    def keeps_up(self, percent: int) -> bool:
        """Tell whether the tokens come evenly, and would for longer than this step."""
        return self.late_s <= _LATE_S and self.core <= percent / 100


def climb(relay: Relay, core: SlowCore, steps: Iterable[int] = STREAMS_PER_CARD) -> list[Step]:
    """Return what came of each load, up to the first with which the relay does not keep up."""
    core.hold(relay.processes())
    seen: list[Step] = []
    for per_card in steps:
        seen.append(_step(relay, CARDS * per_card))
        if not seen[-1].keeps_up(core.percent):
            break
    return seen


def _step(relay: Relay, streams: int) -> Step:
    before_s = relay.cpu_s()
    work = {"streams": streams, "tokens": _TOKENS, "rate": RATE, "start_within": _START_WITHIN_S}
    outcome = load(relay.url, **work)
    return Step(
        streams=streams,
        cpu_s=relay.cpu_s() - before_s,
        late_s=outcome.late_s,
        first_token_s=statistics.median(outcome.first_token_s),
    )


def carried(steps: Sequence[Step], percent: int) -> float:
    """Return the most tokens a second with which a relay kept up; 0 when it did with none."""
    return max((step.tokens_per_second for step in steps if step.keeps_up(percent)), default=0.0)


def report(climbs: dict[str, list[Step]], percent: int) -> str:
    """Return the table of all relays, and what a rig with 12 cards can relay."""
    head = ["relay", "tokens/s", "of the quota", "late (99 %), ms", "first token, ms (median)"]
    rows = [
        [
            name,
            f"{step.tokens_per_second:.0f}",
            f"{step.core * 100 / percent:.0%}",
            f"{step.late_s * 1e3:.0f}" + ("" if step.keeps_up(percent) else ": does not keep up"),
            f"{step.first_token_s * 1e3:.1f}",
        ]
        for name, steps in climbs.items()
        for step in steps
    ]
    lines = [table([head, *rows]), "", f"On {percent} % of one core:"]
    for name, steps in climbs.items():
        most = carried(steps, percent)
        to_the_end = "at least " if steps[-1].keeps_up(percent) else ""
        lines.append(
            f"- {name} carries {to_the_end}{most:.0f} tokens/s, "
            f"{most / (CARDS * RATE):.0f} times what {CARDS} cards make with one stream each."
        )
    return "\n".join(lines)
