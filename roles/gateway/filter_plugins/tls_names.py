"""Filters for `gateway_tls_names`: what clients call the gateway, names and addresses.

names | tls_alternatives   as a certificate has them, IP:... or DNS:...
names | tls_shown          those under which the gateway is asked for the certificate that it shows
names | tls_wrong          those that cannot be used
names | tls_unconfirmed    those that no ACME server confirms by a web page
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_ADDRESS = re.compile(r"[0-9.]+|.*:.*")
_USABLE = re.compile(r"[A-Za-z0-9*]([A-Za-z0-9.:-]*[A-Za-z0-9])?")


def _is_address(name: str) -> bool:
    return _ADDRESS.fullmatch(name) is not None


def alternatives(names: Iterable[str]) -> list[str]:
    """Return each name with its kind in front, as openssl wants it."""
    return [f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in names]


def shown(names: Iterable[str]) -> list[str]:
    """Return the names that a client can ask for by SNI: no addresses, no wildcards."""
    return [name for name in names if not _is_address(name) and "*" not in name]


def wrong(names: Iterable[str]) -> list[str]:
    """Return what is neither name nor address, or has a port or a path."""
    return [name for name in names if not _USABLE.fullmatch(name)]


def unconfirmed(names: Iterable[str]) -> list[str]:
    """Return addresses, wildcards and names of one word, which are not public."""
    public = [name for name in shown(names) if "." in name]
    return [name for name in names if name not in public]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "tls_alternatives": alternatives,
            "tls_shown": shown,
            "tls_wrong": wrong,
            "tls_unconfirmed": unconfirmed,
        }
