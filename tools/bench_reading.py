#!/usr/bin/env python3
"""Measures for how long one request's body keeps a rig's proxy busy, before a backend is asked.

    make bench-reading

Each kind of body (tools/bench/bodies.py, and some that have many small values where a prompt is) is
read, checked and hashed as the proxy does it, in this process: what it takes is CPU time of the
event loop, in which every other stream of the rig waits.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import process_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from heartcode.api import media, validation
from heartcode.api.routes import ENDPOINTS
from heartcode.errors import ApiError
from heartcode.relay.buffered import as_stream
from heartcode.relay.transcript import transcript_of
from heartcode.routing.request_info import RequestInfo

from tools.bench.bodies import KINDS
from tools.bench.measuring import table

_BY_PATH = {endpoint.path: endpoint for endpoint in ENDPOINTS}
_TEXT = _BY_PATH["/completion"]
# By the field that a body begins with.
_ENDPOINTS = {
    b'{"messages"': _BY_PATH["/v1/chat/completions"],
    b'{"input"': _BY_PATH["/v1/responses"],
}
_MAX_DEPTH = 100  # HEARTCODE_MAX_JSON_DEPTH's default
_MAX_TOKENS = 4096


def _list_of(begin: str, item: str, end: str) -> Callable[[int], str]:
    return lambda size: begin + ",".join([item] * max(1, size // (len(item) + 1))) + end


#: All kinds, made to be of a size.
BODIES: dict[str, Callable[[int], str]] = {
    **KINDS,
    "messages without content": _list_of('{"messages":[', '{"role":"user"}', "]}"),
    "messages with fields": _list_of('{"messages":[', '{"role":"user","a":{"b":[]}}', "]}"),
    "empty parts": _list_of('{"messages":[{"role":"user","content":[', "{}", "]}]}"),
    "empty prompts": _list_of('{"prompt":[', "[]", "]}"),
    "fractions": _list_of('{"prompt":[', "1.1e-300", "]}"),
    "long whole numbers": _list_of('{"prompt":[', "1" * 290, "]}"),
    "a huge exponent": _list_of('{"prompt":[1e300,', "128000", "]}"),
    "empty items": _list_of('{"input":[', "{}", "]}"),
    "empty tools": _list_of('{"messages":[{"role":"user","content":""}],"tools":[', "{}", "]}"),
    "biases": _list_of('{"prompt":"","logit_bias":[', "[128000,-1.5]", "]}"),
    "lists in deep ones": _list_of('{"prompt":"","a":' + "[" * 90, "[[],[[]]]", "]" * 90 + "}"),
}


def read(body: bytes) -> None:
    """Do with a body what the proxy does with it before it asks a backend."""
    endpoint = _ENDPOINTS.get(body.partition(b":")[0], _TEXT)
    with suppress(ApiError):
        fields = validation.parse(body, max_depth=_MAX_DEPTH)
        validation.check(fields, endpoint, max_tokens=_MAX_TOKENS)
        media.taking((), fields, model="")
        RequestInfo.of(endpoint.own(fields), None)
        if transcript_of(endpoint.path, fields) is not None:  # a whole answer is asked for as one
            as_stream(endpoint.path, fields)


def least_ms(body: bytes, repeats: int) -> float:
    """Return the least CPU time that it takes, in milliseconds: others disturb."""
    taken = []
    for _ in range(repeats):
        before = process_time()
        read(body)
        taken.append((process_time() - before) * 1e3)
    return min(taken)


def main() -> None:
    """Measure, and print the table: the most expensive first."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="readings for each figure")
    parser.add_argument("--size", type=int, default=100_000, help="bytes (default: 100,000)")
    given = parser.parse_args()
    gc.set_threshold(50_000)  # heartcode/server/wsgi.py's
    bodies = {kind: make(given.size - 200).encode() for kind, make in BODIES.items()}
    found = {kind: least_ms(body, given.repeats) for kind, body in bodies.items()}
    rows = [
        [kind, f"{ms:.2f}", f"{ms * 100_000 / given.size:.2f}"]
        for kind, ms in sorted(found.items(), key=lambda each: -each[1])
    ]
    print(table([["body", "ms", "ms for 100 KB"], *rows]))


if __name__ == "__main__":
    main()
