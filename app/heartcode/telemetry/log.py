"""Log lines about backends, JSON like those about requests (`observe`)."""

from __future__ import annotations

import json
import logging

log = logging.getLogger("heartcode.backends")


def note(event: str, *, backend: str, level: int = logging.INFO, **fields: object) -> None:
    """Write what happened to a backend."""
    line = {"event": event, "backend": backend, **fields}
    log.log(level, "%s", json.dumps(line))
