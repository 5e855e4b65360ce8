"""Filters for what one host of the inventory has to know of another.

host | fleet_address(hostvars)            the address or name under which the other hosts reach it
host | fleet_peers(groups, hostvars)      those of all other rigs and gateways
hosts | fleet_hosts(hostvars, defaults)   name, addresses and those variables of each
hosts | fleet_silent(hostvars)            those that have told no facts
hosts | fleet_facts(hostvars, variable)   what each has noted there, its name alone where it has not
variables | fleet_models                  what a host serves, as scripts/model.py is asked for it
variables | fleet_model_file(catalogue)   the name of the file that a card of it serves by default
rigs | fleet_questions(hostvars)          what all of them serve, each model once
gateways | fleet_mirrors(own_name)        where the gateways hand out models

Of another host a role sees what the inventory says and no role's defaults: what the inventory
does not say is taken for empty here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Undefined

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.catalogue.entries import CATALOGUE, Catalogue

#: What a question to scripts/model.py says of a model.
_FIELDS = ("name", "quantisation", "file", "src")

HostVars = Mapping[str, Mapping[str, Any]]


def _said(variables: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return what the inventory says of a host, or the default.

    It may say it with a variable that only the host's own roles know; that is as if it did not.
    """
    value = variables.get(name, default)
    return default if isinstance(value, Undefined) else value


def address(host: str, hostvars: HostVars) -> str:
    """Return `heartcode_address`, which is set where Ansible connects to another address."""
    variables = hostvars[host]
    for name in ("heartcode_address", "ansible_host"):
        if name in variables:
            return str(variables[name])
    return host


def peers(host: str, groups: Mapping[str, Sequence[str]], hostvars: HostVars) -> list[str]:
    """Return the addresses of the fleet's other hosts, sorted."""
    hosts = {*groups.get("rigs", ()), *groups.get("gateways", ())} - {host}
    return sorted(address(other, hostvars) for other in hosts)


def hosts(
    names: Iterable[str], hostvars: HostVars, defaults: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return each host's name, address and the variables that `defaults` names.

    What the inventory does not say of a variable, `defaults` does. `url_host` is the address as it
    stands before a port, an IPv6 address in brackets.
    """
    found = []
    for name in names:
        own = {key: _said(hostvars[name], key, default) for key, default in defaults.items()}
        at = address(name, hostvars)
        url_host = f"[{at}]" if ":" in at else at
        found.append({"name": name, "address": at, "url_host": url_host, **own})
    return found


def silent(names: Iterable[str], hostvars: HostVars) -> list[str]:
    """Return the hosts that Ansible knows no facts of, sorted."""
    return sorted(name for name in names if not hostvars[name].get("ansible_facts"))


def facts(names: Iterable[str], hostvars: HostVars, variable: str) -> list[Any]:
    """Return the variable of each host; of one that does not have it a mapping with its name."""
    return [_said(hostvars[name], variable, {"name": name}) for name in names]


def models(variables: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return `rig_models`, which the role rig has decided, or what the inventory asks for.

    That is `model_name`, `model_quantisation`, `model_file` and `model_src`, then `model_more`.
    Each has all of the fields name, quantisation, file and src; "" where nothing is said.
    """
    if decided := _said(variables, "rig_models", None):
        return list(decided)
    first = {field: variables.get(f"model_{field}") for field in _FIELDS}
    every = [first, *(variables.get("model_more") or [])]
    return [{field: model.get(field) or "" for field in _FIELDS} for model in every]


def model_file(variables: Mapping[str, Any], catalogue: str | None = None) -> str:
    """Return the file of a host's first model; of a name in the catalogue it is the catalogue's.

    It is "" where the inventory leaves the quantisation to the planner.

    Raises:
        ModelError: the catalogue has no such model; the message says which there are.
    """
    first = models(variables)[0]
    if not (first["name"] and first["quantisation"]):
        return first["file"]
    entries = Catalogue.read(Path(catalogue) if catalogue else CATALOGUE)
    return entries.find(first["name"], first["quantisation"])[2].name


def questions(rigs: Iterable[str], hostvars: HostVars) -> list[dict[str, Any]]:
    """Return each model that the fleet has to fetch (`model`), with the first rig that serves it.

    One that has neither a name nor a source lies on its rig already.
    """
    found: list[dict[str, Any]] = []
    for rig in rigs:
        for model in models(hostvars[rig]):
            is_there = not (model["name"] or model["src"])
            if not is_there and all(model != other["model"] for other in found):
                found.append({"host": rig, "model": model})
    return found


def mirrors(gateways: Iterable[Mapping[str, Any]], own_name: str) -> list[str]:
    """Return the base URLs of all mirrors but the host's own.

    `gateways` are mappings with name, url_host, model_mirror_enabled and model_mirror_port.
    """
    return [
        f"http://{gateway['url_host']}:{gateway['model_mirror_port']}/models"
        for gateway in gateways
        if gateway["name"] != own_name and gateway["model_mirror_enabled"]
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "fleet_address": address,
            "fleet_peers": peers,
            "fleet_hosts": hosts,
            "fleet_silent": silent,
            "fleet_facts": facts,
            "fleet_models": models,
            "fleet_model_file": model_file,
            "fleet_questions": questions,
            "fleet_mirrors": mirrors,
        }
