"""The metrics of the backends whose cards are gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client import Metric
from prometheus_client.registry import Collector

from heartcode.exporter.cards import Labels
from heartcode.exporter.readings import BACKEND_QUARANTINED, GPU_QUARANTINED
from heartcode.health.quarantine import reason


class Quarantine(Collector):
    """1 for each backend of which a card is gone, and for that card; looked up at each scrape.

    Args:
        run_dir: The run directory, `/run/heartcode` on a rig.
        backends: Their URLs in the order of their numbers.
        cards: What each of their cards is called.
    """

    def __init__(self, run_dir: Path, backends: Sequence[str], cards: Sequence[Labels]) -> None:
        self._run_dir = run_dir
        self._names = [urlsplit(backend).netloc for backend in backends]
        self._cards = cards

    def collect(self) -> Iterable[Metric]:
        """Return both metrics."""
        reasons = [reason(self._run_dir, number) for number in range(len(self._names))]
        backends = BACKEND_QUARANTINED.family()
        for name, why in zip(self._names, reasons, strict=True):
            backends.add_metric([name], why is not None)
        gone = {why.partition(":")[0] for why in reasons if why}
        cards = GPU_QUARANTINED.family()
        for labels in self._cards:
            cards.add_metric(labels, labels[1] in gone)
        return [backends, cards] if self._cards else [backends]
