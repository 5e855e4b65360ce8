"""The hosts that lend a rig their cards, as its question brings them, and its only backend then.

A lent card is known by its UUID and the host, ``GPU-...@rig2``: in the backend's ``uuid``, and in
what is remembered of it. The devices of the backend's llama-server are the helpers' cards, in the
order of the helpers and of each one's cards, then the rig's own. Where the CPU computes the rig
itself has no device among them: all layers are on the helpers, and ``tensor_split`` and ``cards``
have an entry for each of their devices and none for the rig's own cards, which ``uuid`` has behind
them all the same, as the backend is quarantined with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from heartcode_models.deployment.cards import MaybeCards, cards_of
from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import AND, AT, Helper, host_of, uuids_of
from heartcode_models.planner.over_rigs import ONE_ENTRY
from heartcode_models.units import MIB

Host = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Lender:
    """A helper, as far as its cards are known.

    Attributes:
        told: What the question says of it.
        uuids: Its cards' names on the rig.
        cards: What is known of them; None for one whose memory only a driver tells.
    """

    told: Host
    uuids: tuple[str, ...]
    cards: MaybeCards

    @property
    def name(self) -> str:
        """Its inventory name."""
        return str(self.told["name"])

    def as_helper(self) -> Helper:
        """It for the planner."""
        known = tuple(card for card in self.cards if card)
        return Helper(name=self.name, cards=known, ram=int(self.told["ram_mib"]) * MIB)

    def as_data(self) -> dict[str, Any]:
        """Where it answers, and how many devices it has there."""
        endpoint = f"{self.told['address']}:{self.told['port']}"
        return {"name": self.name, "endpoint": endpoint, "cards": len(self.uuids)}


def lenders_of(host: Host) -> tuple[Lender, ...]:
    """A rig's helpers in their order; none where nobody lends it anything.

    Raises:
        ModelError: one has nothing to lend, or computes on another kind of device than the rig.
    """
    told = host.get("helpers") or ()
    for helper in told:
        if not helper["gpus"] and helper["backend"] != "cpu":
            raise ModelError(
                f"its helper {helper['name']} has no card to lend: check its risers and power, or"
                " leave it out of llama_server_helpers"
            )
        if helper["backend"] != host["backend"]:
            name, kind, own = helper["name"], helper["backend"], host["backend"]
            raise ModelError(
                f"its helper {name} has llama_cpp_backend {kind} and {host['name']} {own}: both"
                f" must be built alike. Set llama_cpp_backend: {own} for {name}, or leave it out of"
                " llama_server_helpers"
            )
    return tuple(_lender(helper, host["former"]) for helper in told)


def _lender(helper: Host, former: Sequence[Host]) -> Lender:
    name = helper["name"]
    on_cpu = helper["backend"] == "cpu"
    gpus = list(helper["gpus"]) or ([{"uuid": "cpu"}] if on_cpu else [])
    remembered = [_remembered(backend, name) for backend in former]
    known = cards_of({**helper, "gpus": gpus, "former": remembered})
    uuids = tuple(f"{uuid}{AT}{name}" for gpu in gpus for uuid in uuids_of(str(gpu["uuid"])))
    cards = [
        card and replace(card, uuid=f"{card.uuid}{AT}{name}", host=name)
        for group in known
        for card in group
    ]
    return Lender(told=helper, uuids=uuids, cards=tuple(cards))


def _remembered(backend: Host, helper: str = "") -> dict[str, Any]:
    """What the rig remembers of a helper's cards in a backend, or of its own, by the names there.

    A backend without any is one card that nobody has.
    """
    cards = backend.get("cards") or [backend.get("card")]
    pairs = zip(uuids_of(str(backend["uuid"])), cards, strict=False)
    kept = [(uuid.partition(AT)[0], card) for uuid, card in pairs if host_of(uuid) == helper]
    return {"uuid": AND.join(uuid for uuid, _ in kept), "cards": [card for _, card in kept]}


def one_backend(host: Host, lenders: Sequence[Lender]) -> dict[str, Any]:
    """The question of a rig with helpers, its cards and theirs those of one backend.

    Raises:
        ModelError: its cards are more than one backend's.
    """
    gpus = host["gpus"]
    if len(gpus) > 1 and not host["found"]:
        raise ModelError(ONE_ENTRY.format(entries=len(gpus)))
    said = {key: value for gpu in gpus for key, value in gpu.items() if key != "uuid"}
    if host["backend"] == "cpu":
        said.pop("n_gpu_layers", None)
    own = [uuid for gpu in gpus for uuid in uuids_of(str(gpu["uuid"]))]
    names = [*(uuid for lender in lenders for uuid in lender.uuids), *own]
    bus = [_renamed(line, lender.name) for lender in lenders for line in lender.told["bus"]]
    return {
        **host,
        "gpus": [{"uuid": AND.join(names), **said}],
        "found": False,
        "bus": [*host["bus"], *bus],
    }


def _renamed(line: str, helper: str) -> str:
    """What a helper's bus tells of a card, by the name that it has on the rig."""
    place, _, told = line.partition(" ")
    return f"{place}{AT}{helper} {told}"


def own_cards(host: Host) -> MaybeCards:
    """The cards of the rig itself, all of one backend; where it computes, one for its RAM."""
    uuids = [uuid for gpu in host["gpus"] for uuid in uuids_of(str(gpu["uuid"]))]
    former = [_remembered(backend) for backend in host["former"]]
    (cards,) = cards_of({**host, "gpus": [{"uuid": AND.join(uuids)}], "former": former})
    return cards
