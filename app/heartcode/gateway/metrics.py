"""What the gateway's relay counts. docs/reference/metrics.md is written from here.

It serves them itself, at `/metrics`: nothing here takes long.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, generate_latest

from heartcode.telemetry.metrics import Counter, Gauge
from heartcode.telemetry.metrics_files import SummedFiles

REQUESTS = Counter(
    "gateway_requests_total",
    "Requests by how they ended at the gateway: completed, disconnected, failed (the rig could not "
    "be asked, or a stream ended with an error), or refused by the rig (4xx and 503).",
    ["outcome"],
)
ACTIVE = Gauge(
    "gateway_active_requests",
    "Requests that are on their way through the gateway now.",
    multiprocess_mode="livesum",
)
RESUMES = Counter(
    "gateway_resumes_total",
    "Streams that another rig went on with, by what was wrong with the former.",
    ["reason"],
)

_OWN = tuple(f.name for metric in (REQUESTS, ACTIVE, RESUMES) for f in metric.describe())


class _Own(SummedFiles):
    """What is counted here; the relay's code counts under a rig's names as well, for nobody."""

    def collect(self) -> Iterable[Metric]:
        """Read the files."""
        return [family for family in super().collect() if family.name in _OWN]


def page(directory: Path) -> bytes:
    """Return what a scrape gets."""
    registry = CollectorRegistry()
    registry.register(_Own(directory))
    return generate_latest(registry)
