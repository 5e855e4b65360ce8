"""Which backend gets a request.

A policy is a function of candidates, one for each backend that may be asked, without effects:

    time to first token = wait for a slot + work before us + prompt tokens not cached ÷ prompt speed

and the cost of a candidate is that time plus what the choice costs later, because it overwrites
another conversation in the backend's KV cache:

    loss = tokens overwritten ÷ prompt speed × chance that they are asked for again
    chance = exp(−seconds since they were used ÷ 600) ÷ 2

Those whose costs differ by less than the estimate is worth (a tenth, and 50 ms) count as equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from heartcode.routing.prefix_cache import Match

# Half of all conversations go on for another turn, most of these within minutes: an assumption, not
# a measurement. It only has to be right in kind: an old cache is overwritten before a young one.
_RETURN_CHANCE = 0.5
_RETURN_WITHIN_S = 600.0

_EQUAL_SHARE = 0.1
_EQUAL_S = 0.05


@dataclass(kw_only=True, slots=True)  # not frozen: a request makes one for each backend
class Candidate:
    """A backend that may be asked, and what it can do for one request.

    Attributes:
        backend: its number among those that may be asked.
        free: whether a slot is free now.
        avoided: whether it failed a moment ago.
        in_flight: requests that it is working on.
        last_taken: a number that is the higher the later the backend was chosen last.
        wait_s: seconds until a slot is free, 0 if one is.
        ahead_s: seconds for which its GPU still evaluates the prompts of others.
        prompt_s: seconds to evaluate what is not cached of the prompt.
        loss_s: seconds that overwriting its cache will probably cost later.
    """

    backend: int
    free: bool = True
    avoided: bool = False
    in_flight: int = 0
    last_taken: int = 0
    wait_s: float = 0.0
    ahead_s: float = 0.0
    prompt_s: float = 0.0
    loss_s: float = 0.0

    @property
    def cost_s(self) -> float:
        """Seconds to the first token, plus those that the choice costs later."""
        return self.wait_s + self.ahead_s + self.prompt_s + self.loss_s

    @property
    def cost_without_wait_s(self) -> float:
        """The cost once a slot is free."""
        return self.prompt_s + self.loss_s


Policy = Callable[[Sequence[Candidate]], Candidate | None]


def prompt_seconds(match: Match, *, chars: int, tokens_per_char: float, speed: float) -> float:
    """Return how long the part of a prompt that is not cached takes, at `speed` tokens/s."""
    # llama-server always evaluates at least the last token.
    return max(1.0, (chars - match.cached_chars) * tokens_per_char) / speed


def loss_seconds(match: Match, *, tokens_per_char: float, speed: float) -> float:
    """Return what it will probably cost that a cached conversation is overwritten."""
    if not match.lost_chars:
        return 0.0
    chance = _RETURN_CHANCE * math.exp(-match.lost_idle_s / _RETURN_WITHIN_S)
    return match.lost_chars * tokens_per_char / speed * chance


def time_to_first_token(candidates: Sequence[Candidate]) -> Candidate | None:
    """Choose the candidate of least cost; it may be one that has to be waited for.

    Among equals: a free one, the fewest requests in flight, the most in the cache, then in turns.
    """
    usable = _usable(candidates)
    if not usable:
        return None
    costs = [candidate.cost_s for candidate in usable]
    enough = min(costs) * (1 + _EQUAL_SHARE) + _EQUAL_S
    equals = [
        candidate for candidate, cost_s in zip(usable, costs, strict=True) if cost_s <= enough
    ]
    return min(equals, key=lambda c: (not c.free, c.in_flight, round(c.prompt_s, 3), c.last_taken))


def least_busy(candidates: Sequence[Candidate]) -> Candidate | None:
    """Choose the fewest requests in flight; among equals in turns. Never waits for a better one."""
    return min(
        _usable(candidates), key=lambda c: (not c.free, c.in_flight, c.last_taken), default=None
    )


def round_robin(candidates: Sequence[Candidate]) -> Candidate | None:
    """Choose in turns among those with a free slot."""
    return min(_usable(candidates), key=lambda c: (not c.free, c.last_taken), default=None)


def _usable(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Leave out what failed a moment ago, unless all did: being refused costs less than nothing."""
    candidates = list(candidates)
    return [candidate for candidate in candidates if not candidate.avoided] or candidates


POLICIES: dict[str, Policy] = {
    "time_to_first_token": time_to_first_token,
    "least_busy": least_busy,
    "round_robin": round_robin,
}
