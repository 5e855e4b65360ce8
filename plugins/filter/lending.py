"""Filters for helpers: hosts that lend all of their cards to one rig, their leader.

helper | lending_leaders(groups, hostvars)   the rigs that name it in llama_server_helpers
helper | lending_faults(groups, hostvars)    what keeps it from lending, as sentences
at_leader | lending_address(at_helper)       under which of its own addresses it lends, "" for none
helper | lending_addresses(asked, at_leader, at_helper)
                                             the same, to whom, and what keeps them apart
backends | lent_gpus                         each card by itself, of those that role rig has found
backends | lent_settings                     what the inventory sets beside cards
paths | lending_served                       numbers of backends from a time when it was a rig
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

# Ansible loads this file by its path, and has no setting for where else Python is to look.
sys.path.append(str(Path(__file__).parents[2] / "app"))

from heartcode_models.planner.cards import uuids_of

Groups = Mapping[str, Sequence[str]]
HostVars = Mapping[str, Mapping[str, Any]]
Answers = Mapping[str, Mapping[str, Any]]

_OF_A_BACKEND = re.compile(r"/([0-9]+)[.]env$")


def leaders(helper: str, groups: Groups, hostvars: HostVars) -> list[str]:
    """Return the rigs that want a helper's cards; one, where the inventory is right."""
    return [rig for rig in groups.get("rigs", ()) if helper in _helpers(hostvars[rig])]


def _helpers(variables: Mapping[str, Any]) -> Sequence[str]:
    """What a rig names; what is no list the rig's own preflight refuses."""
    said = variables.get("llama_server_helpers")
    return said if isinstance(said, list) else ()


def faults(helper: str, groups: Groups, hostvars: HostVars) -> list[str]:
    """Return what the inventory must say otherwise of a host of the group helpers."""
    found = leaders(helper, groups, hostvars)
    said = ""
    if helper in groups.get("rigs", ()):
        said = (
            f"{helper} is in the groups rigs and helpers. A helper lends all of its cards and"
            " serves nothing itself: take it out of one of them."
        )
    elif not found:
        said = (
            f"{helper} is in the group helpers, and no rig has it in its llama_server_helpers."
            f" Write `llama_server_helpers: [{helper}]` at the rig that shall have its cards, or"
            " take it out of the group."
        )
    elif len(found) > 1:
        said = (
            f"{' and '.join(found)} have {helper} in their llama_server_helpers, and a helper's"
            " cards serve one rig. Take it out of all but one."
        )
    return [said] if said else []


def address(at_leader: Answers, at_helper: Answers) -> str:
    """Return the first of a helper's own IPv4 addresses that its leader knows; "" for none.

    Args:
        at_leader: What the leader says of the helper (`helper`, of getent ahostsv4).
        at_helper: What the helper says of its own addresses (`own`, of `ip -4 -oneline address`).
    """
    own = _own(at_helper)
    return next((one for one in _looked_up(at_leader["helper"]) if one in own), "")


def _own(at_helper: Answers) -> list[str]:
    return [
        word.split("/")[0]
        for line in at_helper["own"]["stdout_lines"]
        for before, word in pairwise(line.split())
        if before == "inet" and not _is_loopback(word)
    ]


def addresses(
    helper: str, asked: Mapping[str, str], at_leader: Answers, at_helper: Answers
) -> dict[str, Any]:
    """Return the helper's `address`, the addresses of its `leader`, and `faults` as sentences.

    Args:
        helper: Its inventory name.
        asked: The address or name of `helper` and `leader` as the inventory has them.
        at_leader: As of `address`, and the leader's way to there (`route`, of `ip -oneline route
            get`): one with several addresses may come from another than that by which it is known.
        at_helper: As of `address`, and what the helper says of the leader (`leader`, of getent
            ahostsv4).
    """
    here = address(at_leader, at_helper)
    route = at_leader.get("route", {"rc": 1})
    comes_from = _sources(route)
    leader = list(dict.fromkeys([*comes_from, *_looked_up(at_helper["leader"])]))
    leader = [one for one in leader if not _is_loopback(one)]
    said = []
    if not here:
        reached = _looked_up(at_leader["helper"])
        if reached == [asked["helper"]]:
            why = "is none of them"
        elif reached:
            why = f"is {', '.join(reached)} to its leader"
        else:
            why = "has no IPv4 address to its leader"
        said.append(
            f"{helper} lends its cards at an IPv4 address of its own, of which it has"
            f" {', '.join(_own(at_helper)) or 'none'}, and {asked['helper']} {why}. Set its"
            " heartcode_address, or rpc_server_address, to the one that its leader reaches."
        )
    elif here in comes_from:
        said.append(
            f"{helper} and its leader are one host, {here}: a host uses its own cards without"
            " lending them. Take it out of llama_server_helpers and of the group helpers."
        )
    elif route["rc"] != 0:
        said.append(
            f"The leader of {helper} has no route to {here}. Connect their networks, or set"
            f" rpc_server_address of {helper} to an address that its leader reaches."
        )
    if not leader:
        said.append(
            f"{helper} knows no IPv4 address of its leader, {asked['leader']}, and llama.cpp's RPC"
            " knows no other. Set the leader's heartcode_address."
        )
    return {"address": here, "leader": leader, "faults": said}


def _sources(route: Mapping[str, Any]) -> list[str]:
    """The address from which a host comes, of `ip -oneline route get`."""
    lines = route["stdout_lines"] if route["rc"] == 0 else []
    return [word for line in lines for before, word in pairwise(line.split()) if before == "src"]


def _looked_up(answer: Mapping[str, Any]) -> list[str]:
    """Each address once: getent names it with several kinds of socket."""
    lines = answer["stdout_lines"] if answer["rc"] == 0 else []
    return list(dict.fromkeys(line.split()[0] for line in lines if line.strip()))


def _is_loopback(address: str) -> bool:
    return address.startswith("127.")


def gpus(backends: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the `uuid` of each card by itself."""
    return [{"uuid": uuid} for one in backends for uuid in uuids_of(one["uuid"])]


def settings(backends: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what is set beside cards, which are lent and have no settings of their own."""
    return sorted({name for one in backends for name in one if name != "uuid"})


def served(paths: Iterable[str]) -> list[int]:
    """Return the numbers of backends whose settings are among these files."""
    return sorted(int(found[1]) for path in paths if (found := _OF_A_BACKEND.search(path)))


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "lending_leaders": leaders,
            "lending_faults": faults,
            "lending_address": address,
            "lending_addresses": addresses,
            "lent_gpus": gpus,
            "lent_settings": settings,
            "lending_served": served,
        }
