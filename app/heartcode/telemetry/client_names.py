"""Which name a client has in metrics: the one that the gateway knows its API key by.

A gateway that asks for no keys sends an address instead, and whoever reaches the rig's port sends
what they like: neither may fill the exporter's memory.
"""

from __future__ import annotations

import re

OTHERS = "others"
MOST = 200

# As the role gateway demands of a name; an address does not look like it.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._@-]{0,39}")
_seen: set[str] = set()


def label(client: str) -> str:
    """Return the client's name, "" if it has none, `OTHERS` if there are more than `MOST`."""
    if client in _seen:
        return client
    if not _NAME.fullmatch(client):
        return ""
    if len(_seen) >= MOST:
        return OTHERS
    _seen.add(client)
    return client
