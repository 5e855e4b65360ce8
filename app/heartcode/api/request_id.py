"""The id that follows a request from the client through all logs."""

from __future__ import annotations

import os
import re

HEADER = "X-Request-Id"

# It is written into logs and headers: nothing there may need quoting.
_ACCEPTED = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def accept(offered: str | None) -> str:
    """Return the client's id if it can be used, otherwise a new one."""
    if offered and _ACCEPTED.fullmatch(offered):
        return offered
    return os.urandom(16).hex()
