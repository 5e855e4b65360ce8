"""Filters for `gateway_upstreams`: what the gateway's relay is told of the rigs.

gateway_upstreams | gateway_relay_addresses   an address of the loopback interface for each rig's
gateway_upstreams | gateway_relay_settings(addresses)   the relay's settings about them
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from itertools import chain, count
from typing import Any

_LOOPBACK = IPv4Network("127.0.0.0/8")
# The host's own services are found there, the relay's metrics among them.
_OWN = IPv4Network("127.0.0.0/30")
_HOST_BITS = 2**24 - 1


def relay_addresses(upstreams: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the address at which this host's relay is asked for a rig, by the rig's address.

    It ends as the rig's own does (192.168.1.21: 127.168.1.21), so that people know it again in
    nginx's log. Where that is taken, or a rig has a name instead, it comes from the name's hash. A
    rig keeps its address when others come and go, and with it its place on nginx's ring; all
    gateways have the same.
    """
    found: dict[str, str] = {}
    for rig in sorted(str(upstream["address"]) for upstream in upstreams):
        taken = found.values()
        found[rig] = next(each for each in _candidates(rig) if each not in taken)
    return found


def _candidates(rig: str) -> Iterator[str]:
    host = rig.rpartition(":")[0]
    try:
        numbers = [int(IPv4Address(host))]
    except AddressValueError:
        numbers = []
    for bits in chain(numbers, _hashes(rig)):
        address = IPv4Address(int(_LOOPBACK.network_address) | (bits & _HOST_BITS))
        if address not in _OWN and address != _LOOPBACK.broadcast_address:
            yield str(address)


def _hashes(rig: str) -> Iterator[int]:
    for number in count():
        yield int.from_bytes(sha256(f"{rig} {number}".encode()).digest()[:3])


def relay_settings(
    upstreams: Sequence[Mapping[str, Any]], addresses: Mapping[str, str]
) -> dict[str, str]:
    """Return the relay's settings about its rigs: each once, however many models it serves."""
    models: dict[str, dict[str, None]] = {}
    for upstream in upstreams:
        names = models.setdefault(str(upstream["address"]), {})
        names.update((model["names"][0], None) for model in upstream["models"])
    return {
        "HEARTCODE_BACKENDS": ",".join(f"http://{rig}" for rig in models),
        "HEARTCODE_RIG_ADDRESSES": ",".join(addresses[rig] for rig in models),
        "HEARTCODE_RIG_MODELS": ",".join("|".join(names) for names in models.values()),
    }


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "gateway_relay_addresses": relay_addresses,
            "gateway_relay_settings": relay_settings,
        }
