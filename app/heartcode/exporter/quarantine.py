"""The metric of the backends whose cards are gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import Metric
from prometheus_client.registry import Collector

from heartcode.exporter.readings import BACKEND_QUARANTINED
from heartcode.health.quarantine import is_gone


class Quarantine(Collector):
    """1 for each backend whose card is gone, 0 for the others, looked up at each scrape.

    Args:
        run_dir: The run directory, `/run/heartcode` on a rig.
        backends: Their URLs in the order of their numbers.
    """

    def __init__(self, run_dir: Path, backends: Sequence[str]) -> None:
        self._run_dir = run_dir
        self._names = [urlsplit(backend).netloc for backend in backends]

    def collect(self) -> Iterable[Metric]:
        """Return the one metric."""
        gone = BACKEND_QUARANTINED.family()
        for number, name in enumerate(self._names):
            gone.add_metric([name], is_gone(self._run_dir, number))
        return [gone]
