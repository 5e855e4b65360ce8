"""The log: lines of JSON, a logger for requests and one for backends."""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

requests = logging.getLogger("heartcode.request")
backends = logging.getLogger("heartcode.backends")


def backend_event(event: str, *, backend: str, level: int = logging.INFO, **fields: object) -> None:
    """Write what happened to a backend."""
    line = {"event": event, "backend": backend, **fields}
    backends.log(level, "%s", json.dumps(line))


class _Lines(logging.StreamHandler[TextIO]):
    """Writes messages as they are, a line each.

    Nothing but greenlets of one thread write here, and no other runs until the line is out: there
    is nothing to lock.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a message."""
        try:
            self.stream.write(record.getMessage() + self.terminator)
            self.stream.flush()
        except Exception:  # noqa: BLE001 - as logging's own: a line that is lost ends no request
            self.handleError(record)
        return True


def to_stdout(level: str) -> None:
    """Write the lines from `level` on to standard output, where the journal picks them up."""
    # Not even looked for, since no line says it: https://docs.python.org/3/howto/logging.html#optimization
    logging._srcfile = None  # noqa: SLF001
    logging.logThreads = logging.logMultiprocessing = False  # gunicorn's lines tell the process
    handler = _Lines(sys.stdout)
    for log in (requests, backends):
        log.addHandler(handler)
        log.setLevel(level.upper())
        log.propagate = False
