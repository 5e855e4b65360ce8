"""Serves the metrics, in a process of its own: `python -m heartcode.exporter`.

What takes long here (reading hardware does, when a card is dying) never delays a token, and a
scrape works while the proxy restarts. Every source of metrics is a collector in `registry`; none
asks the driver or a llama-server during a scrape.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, start_http_server
from prometheus_client.registry import Collector

from heartcode import __version__
from heartcode.exporter.cards import is_here, labels_of
from heartcode.exporter.gpu_collector import GpuCollector
from heartcode.exporter.llama_counters import LlamaCounters
from heartcode.exporter.quarantine import Quarantine
from heartcode.exporter.readings import BACKEND_INFO, BUILD_INFO
from heartcode.settings import EXIT_BAD_SETTINGS, Settings, SettingsError
from heartcode.telemetry.metrics_files import SummedFiles


class _Facts(Collector):
    """What stays the same while this process runs: its version, and what the backends serve."""

    def __init__(self, settings: Settings) -> None:
        names = [urlsplit(backend).netloc for backend in settings.backends]
        self._served = list(zip(names, settings.models_of_backends(), strict=True))

    def collect(self) -> Iterable[Metric]:
        build = BUILD_INFO.family()
        build.add_metric([__version__], 1)
        serves = BACKEND_INFO.family()
        for backend, model in self._served:
            serves.add_metric([backend, model], 1)
        return [build, serves]


def registry(settings: Settings) -> CollectorRegistry:
    """Return all that a scrape collects, and begin to read it."""
    cards = list(labels_of(settings.gpu_uuids, settings.backends))
    gpus = GpuCollector(
        filter(is_here, cards),
        interval_s=settings.gpu_interval_s,
        timeout_s=settings.gpu_timeout_s,
    )
    llamas = LlamaCounters(settings.backends, interval_s=settings.llama_counters_interval_s)
    collected = CollectorRegistry()
    for collector in (
        SummedFiles(settings.metrics_dir),
        Quarantine(settings.run_dir, settings.backends, cards),
        gpus,
        llamas,
        _Facts(settings),
    ):
        collected.register(collector)
    # Its start tells a rule what was counted anew; it registers itself.
    ProcessCollector(registry=collected)
    gpus.start()
    llamas.start()
    return collected


def main() -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    try:
        settings = Settings.from_env(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_SETTINGS
    ends = {signal.SIGINT, signal.SIGTERM}
    # Before the server's threads begin, so that they leave these signals to sigwait().
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    address, port = settings.listen, settings.metrics_port
    try:
        server, thread = start_http_server(port, address, registry(settings))
    except OSError as error:
        print(f"The exporter cannot listen on {address} port {port}: {error}", file=sys.stderr)
        return 1
    signal.sigwait(ends)
    server.shutdown()
    server.server_close()
    thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
