"""The llama-servers' own counters and versions, asked for at a gentle pace.

At the pinned version a llama-server answers `/metrics` during a batch too; before, it did between
two. The answer goes through the queue in which the answers of requests wait: one that is asked
every second has been seen to stall (ggml-org/llama.cpp#29104), and does not see that clients have
left. So each is asked by a thread of its own, rarely, and a scrape gets what it last said. One that
does not answer is left out.
"""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from urllib.parse import urlsplit

from prometheus_client import Metric
from prometheus_client.registry import Collector

from heartcode.exporter.readings import LLAMA_BUILD_INFO, LLAMA_COUNTERS

_PREFIX = "llamacpp:"
#: A batch on a slow card takes seconds, and other versions answer when it has ended.
_PATIENCE_S = 10.0
_MOST_BYTES = 1 << 20


class LlamaCounters(Collector):
    """What the llama-servers last told.

    Args:
        backends: their URLs.
        interval_s: seconds between two questions to one of them.
    """

    def __init__(self, backends: Sequence[str], *, interval_s: float) -> None:
        self._interval_s = interval_s
        self._addresses = [urlsplit(backend).netloc for backend in backends]
        self._lock = threading.Lock()
        self._told: dict[str, dict[str, float]] = {}
        self._builds: dict[str, str] = {}

    def start(self) -> None:
        """Ask from now on, in threads that end with the process."""
        for address in self._addresses:
            threading.Thread(
                target=self._ask_on, args=(address,), name=address, daemon=True
            ).start()

    def _ask_on(self, address: str) -> None:
        while True:
            told = ask(address)
            build = build_of(address) if told else ""
            with self._lock:
                self._told[address] = told
                self._builds[address] = build
            time.sleep(self._interval_s)

    def collect(self) -> Iterable[Metric]:
        """Return what they last told, without waiting for anything."""
        families = {theirs: reading.family() for theirs, reading in LLAMA_COUNTERS.items()}
        builds = LLAMA_BUILD_INFO.family()
        with self._lock:
            for address, build in self._builds.items():
                if build:
                    builds.add_metric([address, build], 1)
            for address, told in self._told.items():
                for theirs, value in told.items():
                    families[theirs].add_metric([address], value)
        return [family for family in (builds, *families.values()) if family.samples]


def ask(address: str) -> dict[str, float]:
    """Return the counters of one llama-server by their names there; none if it does not answer."""
    return dict(_counters(_get(address, "/metrics").decode(errors="replace")))


def build_of(address: str) -> str:
    """Return what one llama-server says is its version, "" if it says nothing.

    No thread that computes has to answer that.
    """
    try:
        build = json.loads(_get(address, "/props"))["build_info"]
    except (ValueError, LookupError, TypeError):
        return ""
    return build if isinstance(build, str) else ""


def _get(address: str, path: str) -> bytes:
    """Return the body of an answer with status 200, b"" without one."""
    connection = http.client.HTTPConnection(address, timeout=_PATIENCE_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException):
        return b""
    finally:
        connection.close()
    return body if response.status == http.HTTPStatus.OK else b""


def _counters(text: str) -> Iterator[tuple[str, float]]:
    """Yield the lines that are wanted; llama-server gives them no labels and six digits."""
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        theirs = name.removeprefix(_PREFIX)
        if name != theirs and theirs in LLAMA_COUNTERS:
            try:
                value = float(number)
            except ValueError:
                continue
            if math.isfinite(value):
                yield theirs, value
