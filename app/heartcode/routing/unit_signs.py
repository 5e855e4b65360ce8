"""What a backend's unit leaves in the run directory: when it was started, and stopped on purpose.

    signs = UnitSigns(run_dir, 0)
    signs.process()              # another number for each process that was started
    signs.was_stopped(within_s=12)
    signs.kv_cache()             # "q8_0 on": the type of K and V, and whether attention is flash

`heartcode-llama-stopping`, the unit's ExecStop, leaves `llama/N.stopped` before systemd tells
llama-server to end: somebody wants that, be it a person or a playbook. A process that dies by
itself, of a signal or for want of memory leaves none. So it is known of a connection that broke why
it did, at once and for sure: from outside both look the same.

The proxy leaves a sign too: while `llama/N.unsaved` is there, ExecStop waits some seconds for what
is in the slots and in no file yet.

Without systemd there are no signs, and every end counts as a death.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

# Who connects between the sign and the end is cut off too. No process that is started after a stop
# serves within this.
_SLACK_S = 0.5


class UnitSigns:
    """The signs of the unit `heartcode-llama@{number}.service`."""

    def __init__(self, run_dir: Path, number: int) -> None:
        # As text: they are looked at for every request, and a Path costs ten times that.
        self._waiting = str(run_dir / "llama" / f"{number}.waiting")
        self._stopped = run_dir / "llama" / f"{number}.stopped"
        self._kv_cache = run_dir / "llama" / f"{number}.kv"
        self._unsaved = run_dir / "llama" / f"{number}.unsaved"

    def process(self) -> int:
        """Return a number that stands for the process that was started last; 0 if it is unknown."""
        try:
            return os.stat(self._waiting).st_mtime_ns  # noqa: PTH116
        except OSError:
            return 0

    def kv_cache(self) -> str:
        """Return what the process that was started last said of its KV cache; "" if nothing."""
        with suppress(OSError, ValueError):
            return self._kv_cache.read_text().strip()
        return ""

    def note_unsaved(self, *, is_unsaved: bool) -> None:
        """Say whether a stop should wait for what is to be saved, as the unit's ExecStop does."""
        with suppress(OSError):
            if is_unsaved:
                self._unsaved.touch(mode=0o600)
            else:
                self._unsaved.unlink()

    def was_stopped(self, *, within_s: float) -> bool:
        """Return whether the unit was stopped on purpose in the last `within_s` seconds."""
        with suppress(OSError, ValueError):
            # Its own clock: a rig's date may jump while it boots.
            ago_s = time.clock_gettime(time.CLOCK_BOOTTIME) - float(self._stopped.read_text())
            return ago_s <= within_s + _SLACK_S
        return False
