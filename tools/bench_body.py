#!/usr/bin/env python3
"""Measures for how long one request's body keeps the gateway's nginx busy, whatever is in it.

    make bench-body

The role's own site runs here with njs and two models, before a stand-in for a rig. Each kind of
body (tools/bench/bodies.py) is sent several times in each size, and the CPU time of nginx is
read before and after: the kernel's part of taking the body in and passing it on is in it, and what
nginx takes for a body that is refused at its first byte stands beside it.

Nothing may take more than 1 ms for each 100 KB; a body below that has the same millisecond.
"""

from __future__ import annotations

import argparse
import http.server
import json
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode.api import read_for_gateway
from heartcode.routing.request_info import OVERFLOW_HEADER

from tools.bench.bodies import MODEL, bodies
from tools.bench.gateway import Gateway, render
from tools.bench.measuring import table
from tools.bench.relays import free_ports

_LIMIT = 10 * 1024 * 1024  # the role's gateway_client_max_body_size
_SIZES = (10_000, 100_000, 1_000_000, _LIMIT)
_UNIT = 100_000
_AT_MOST_MS = 1.0
_CHAT = "/v1/chat/completions"


class _Rig(http.server.BaseHTTPRequestHandler):
    """Takes a whole body and answers at once; what was asked for is the same in each."""

    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get(OVERFLOW_HEADER) != read_for_gateway.WANTED:
            return self._answer(200)
        told = read_for_gateway.told({"model": MODEL})
        return self._answer(told.status, told.headers | {"X-HeartCode-Error": told.code})

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": "2"}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"{}")


@contextmanager
def rig() -> Iterator[int]:
    """Run the stand-in; yield its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Rig)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cpu_ms(gateway: Gateway, body: bytes, repeats: int) -> float:
    """Return the least CPU time that nginx takes for a request, in milliseconds: others disturb."""
    taken = []
    for _ in range(repeats):
        before = gateway.cpu_s()
        requests.post(gateway.url + _CHAT, data=body, timeout=60)
        taken.append((gateway.cpu_s() - before) * 1e3)
    return min(taken)


def measure(gateway: Gateway, size: int, repeats: int) -> dict[str, float]:
    """Return the time for each kind of body of this size, in milliseconds by its name."""
    found = {"refused at once": cpu_ms(gateway, b"x" * size, repeats)}
    for kind, body in bodies(size):
        found[kind] = cpu_ms(gateway, body, repeats)
    return found


def report(figures: dict[int, dict[str, float]]) -> str:
    """Return the table: ms, and ms for each 100 KB of the largest."""
    sizes = list(figures)
    largest = sizes[-1]
    head = ["body", *(f"{size // 1000:,} KB, ms" for size in sizes), "ms for 100 KB of the last"]
    rows = [
        [
            kind,
            *(f"{figures[size][kind]:.2f}" for size in sizes),
            f"{figures[largest][kind] * _UNIT / largest:.2f}",
        ]
        for kind in figures[largest]
    ]
    return table([head, *rows])


def main() -> None:
    """Measure, print the table, and say which body takes longest for its size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="requests for each figure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    given = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, rig() as behind:
        (port,) = free_ports(1)
        rendered = Path(name) / "site"
        rendered.mkdir()
        site = render(rendered, port=port, rigs={behind: 1}, models=("another", MODEL))
        with Gateway(Path(name), site, port=port, workers="1") as gateway:
            gateway.wait_until_ready("/health")
            for size in _SIZES:
                figures[size] = measure(gateway, size, given.repeats)
    print(report(figures), end="\n\n")
    ratio, kind, size = max(
        (ms / max(1, size / _UNIT), kind, size)
        for size, kinds in figures.items()
        for kind, ms in kinds.items()
    )
    verdict = "within" if ratio <= _AT_MOST_MS else "beyond"
    print(
        f"The most is {ratio:.2f} ms for 100 KB ({kind}, {size // 1000:,} KB): {verdict} the limit."
    )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
