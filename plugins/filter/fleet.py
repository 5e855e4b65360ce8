"""Filters for what one host of the inventory has to know of another.

host | fleet_address(hostvars)            the address or name under which the other hosts reach it
host | fleet_peers(groups, hostvars)      those of all other rigs and gateways
variables | fleet_models                  what a host serves, as scripts/model.py is asked for it
variables | fleet_model_file(catalogue)   the name of the file that a card of it serves by default

Of another host a role sees what the inventory says and no role's defaults: what the inventory
does not say is taken for empty here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.catalogue.entries import CATALOGUE, Catalogue

#: What a question to scripts/model.py says of a model.
_FIELDS = ("name", "quantisation", "file", "src")


def address(host: str, hostvars: Mapping[str, Mapping[str, Any]]) -> str:
    """Return `heartcode_address`, which is set where Ansible connects to another address."""
    variables = hostvars[host]
    for name in ("heartcode_address", "ansible_host"):
        if name in variables:
            return str(variables[name])
    return host


def peers(
    host: str, groups: Mapping[str, Sequence[str]], hostvars: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return the addresses of the fleet's other hosts, sorted."""
    hosts = {*groups.get("rigs", ()), *groups.get("gateways", ())} - {host}
    return sorted(address(other, hostvars) for other in hosts)


def models(variables: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return `model_name`, `model_quantisation`, `model_file` and `model_src`, then `model_more`.

    Each has all of the fields name, quantisation, file and src; "" where nothing is said.
    """
    first = {field: variables.get(f"model_{field}") for field in _FIELDS}
    every = [first, *(variables.get("model_more") or [])]
    return [{field: model.get(field) or "" for field in _FIELDS} for model in every]


def model_file(variables: Mapping[str, Any], catalogue: str | None = None) -> str:
    """Return the file of a host's first model; of a name in the catalogue it is the catalogue's.

    Raises:
        ModelError: the catalogue has no such model; the message says which there are.
    """
    first = models(variables)[0]
    if not first["name"]:
        return first["file"]
    entries = Catalogue.read(Path(catalogue) if catalogue else CATALOGUE)
    return entries.find(first["name"], first["quantisation"])[2].name


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "fleet_address": address,
            "fleet_peers": peers,
            "fleet_models": models,
            "fleet_model_file": model_file,
        }
