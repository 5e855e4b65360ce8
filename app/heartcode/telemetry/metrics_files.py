"""Where the workers keep their metrics: files that the exporter's process adds up.

prometheus_client names a file after the process that writes it, and a process that is gone leaves
its file, because counters must not fall. Named after process ids, the files would grow in number
with every restart, and a reused id would revive a dead worker's numbers. Here each worker writes
under the number of a *seat*, the lowest that no living worker has: a successor counts on in its
predecessor's files, and there are never more of them than workers at one time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from itertools import count
from pathlib import Path
from typing import cast

from prometheus_client import Metric, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector


def free_seat(taken: Collection[int]) -> int:
    """Return the lowest seat that is not taken."""
    return next(seat for seat in count() if seat not in taken)


def prepare(directory: Path, *, keep: Collection[int] = ()) -> None:
    """Make the directory ready for a proxy that starts: only the seats in `keep` are active yet.

    Counters stay: they go on from where the last proxy, even one that was killed, left them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = tuple(f"_{seat}.db" for seat in keep)
    for file in directory.glob("gauge_live*.db"):
        if not file.name.endswith(kept):
            file.unlink(missing_ok=True)


def use(directory: Path, *, seat: int) -> None:
    """Let this process write its metrics under `seat`. To be called before they are defined."""
    if "heartcode.telemetry.metrics" in sys.modules:
        raise RuntimeError("the metrics were defined before it was settled where they are kept")
    # prometheus_client reads the directory from the environment whenever it opens a file.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)

    class Value(values.MultiProcessValue(lambda: seat)):  # type: ignore[misc]
        def inc(self, amount: float) -> None:
            # prometheus_client's own takes a lock and looks for a fork first. Here only the event
            # loop's thread counts, in a process that does not fork.
            self._value += amount
            self._file.write_value(self._key, self._value, 0.0)

    values.ValueClass = Value


def leave(directory: Path, *, seat: int) -> None:
    """Forget what a worker that has ended was doing; what it counted stays."""
    for file in directory.glob(f"gauge_live*_{seat}.db"):
        file.unlink(missing_ok=True)


class SummedFiles(Collector):
    """The metrics of all workers, added up at each scrape."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterable[Metric]:
        """Read the files; none, and no directory, means no metrics."""
        # A worker that begins makes its files first and fills them then.
        files = [str(f) for f in self._directory.glob("*.db") if _size(f) > 0]
        merged = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
        return cast("Iterable[Metric]", merged)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0
