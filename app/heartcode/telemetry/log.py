"""The log: lines of JSON, a logger for requests and one for backends."""

from __future__ import annotations

import json
import logging
import sys

requests = logging.getLogger("heartcode.request")
backends = logging.getLogger("heartcode.backends")


def backend_event(event: str, *, backend: str, level: int = logging.INFO, **fields: object) -> None:
    """Write what happened to a backend."""
    line = {"event": event, "backend": backend, **fields}
    backends.log(level, "%s", json.dumps(line))


def to_stdout(level: str) -> None:
    """Write the lines from `level` on to standard output, where the journal picks them up."""
    # Not even looked for, since no line says it: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logMultiprocessing = False  # gunicorn's lines tell the process
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for log in (requests, backends):
        log.addHandler(handler)
        log.setLevel(level.upper())
        log.propagate = False
