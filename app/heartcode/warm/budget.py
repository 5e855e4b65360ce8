"""How much time a backend may spend on files while others wait for their tokens."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Part of the time; a twentieth is promised, and a little of it goes into hashes and the disk.
SHARE = 0.04
# As much as is saved up, so that a stream of seconds does not see more of it either. A single file
# that takes longer is paid off afterwards.
_MOST_S = 0.25


class Budget:
    """Seconds that come at a steady rate, and are spent at once."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left_s = _MOST_S
        self._at = clock()

    def allows(self, seconds: float) -> bool:
        """Return whether `seconds` may be spent now."""
        now = self._clock()
        self._left_s = min(_MOST_S, self._left_s + (now - self._at) * SHARE)
        self._at = now
        return self._left_s >= min(seconds, _MOST_S)

    def spend(self, seconds: float) -> None:
        """Note what was spent; it may be more than there was."""
        self._left_s -= seconds
