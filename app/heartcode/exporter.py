"""Serves the metrics, in a process of its own: `python -m heartcode.exporter`.

What takes long here (reading hardware does, when a card is dying) never delays a token, and a
scrape works while the proxy restarts. Every source of metrics is a collector in `registry`.
"""

from __future__ import annotations

import os
import signal
import sys

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from heartcode import __version__
from heartcode.metrics_files import SummedFiles
from heartcode.quarantine import Quarantine
from heartcode.settings import EXIT_BAD_SETTINGS, Settings, SettingsError


def registry(settings: Settings) -> CollectorRegistry:
    """Return all that a scrape collects."""
    collected = CollectorRegistry()
    collected.register(SummedFiles(settings.metrics_dir))
    collected.register(Quarantine(settings.run_dir, settings.backends))
    build = Gauge("heartcode_build_info", "The version that runs.", ["version"], registry=collected)
    build.labels(version=__version__).set(1)
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
