"""The gateways that the tests ask, as variables of the role; all are rendered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.gateway.nginx import RIGS
from tests.gateway.rigs import SLOTS

KEY = "default-" * 5
SECRETS = {name: f"{name}-" * 5 for name in ("anna", "bea", "cora", "dora", "emil")}
ORIGIN = "https://chat.example.org"
#: An address of the loopback interface from which more is allowed; clients have 127.0.0.1.
NEAR = "127.0.0.2"

_COUNTING = {"names": ["counting"], "slots": SLOTS}
_SECOND = {"names": ["second", "2nd"], "slots": SLOTS}
_ONE_KEY = {"gateway_api_keys": [{"name": "default", "key": KEY}]}


def _rigs(number: int, *also_on_rig1: dict[str, Any]) -> dict[str, Any]:
    return {
        "gateway_upstreams": [
            {
                "name": f"rig{n}",
                "address": f"127.0.0.1:{port}",
                "models": [_COUNTING, *(also_on_rig1 if n == 1 else ())],
            }
            for n, port in enumerate(RIGS[:number], 1)
        ]
    }


def variants(certificate: Path, key: Path, *, relay: bool = False) -> dict[str, dict[str, Any]]:
    """Return each variant's variables; certificate and key are for those that speak TLS.

    `relay` says whether all have the relay between nginx and the rigs, which takes a second of a
    core to start; else those whose names say that they keep streams.
    """
    default = _ONE_KEY | _rigs(2)
    every = {
        "default": default,
        "third_rig": default | _rigs(3),
        "four_rigs": default | _rigs(4),
        "two_of_four_rigs": default | _rigs(4) | {"gateway_rigs_asked": 2},
        "clients": _rigs(2, _SECOND)
        | {
            "gateway_api_keys": [
                {"name": "default", "key": KEY},
                {"name": "anna", "key": SECRETS["anna"], "requests_per_minute": 2},
                {"name": "bea", "key": SECRETS["bea"], "parallel": 1, "expires": "2999-12-31"},
                {"name": "cora", "key": SECRETS["cora"], "expires": "2026-01-31"},
                {"name": "dora", "key": SECRETS["dora"], "models": ["second"]},
                {"name": "emil", "key": SECRETS["emil"]},
            ]
        },
        "open": _rigs(2) | {"gateway_auth": "none", "gateway_status_allow": [NEAR]},
        "near": default | {"gateway_status_allow": [f"{NEAR}/32"]},
        "no_status": default | {"gateway_status_enabled": False},
        "tls": default
        | {
            "gateway_tls": "self_signed",
            "gateway_tls_hsts": True,
            "gateway_cors_origins": [ORIGIN],
            "_gateway_certificate": str(certificate),
            "_gateway_certificate_key": str(key),
        },
        "keeps_streams": default,
    }
    return {
        name: {"gateway_relay_enabled": relay or name.startswith("keeps"), **own}
        for name, own in every.items()
    }
