"""Plans for the hosts of an inventory, from what playbooks/plan.yml has asked them."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import (
    AND,
    AT,
    X1_LINK,
    Card,
    Helper,
    Rig,
    is_too_old,
    make_card,
    uuids_of,
)
from heartcode_models.planner.description import parse_rig
from heartcode_models.planner.find_models import find_models, stands_in
from heartcode_models.planner.grouping import mixed, plan_grouped
from heartcode_models.planner.layer_split import Cards
from heartcode_models.planner.network import network_of
from heartcode_models.planner.over_rigs import ONE_ENTRY, plan_over_rigs
from heartcode_models.planner.rig_plan import RigPlan, plan_rig
from heartcode_models.planner.settings import HandSet
from heartcode_models.units import MIB

#: Fields of the nvidia-smi query in roles/rig/vars/main.yml.
QUERY = (
    "uuid",
    "name",
    "memory.total",
    "memory.reserved",
    "pcie.link.gen.max",
    "pcie.link.width.current",
    "pci.bus_id",
    "compute_cap",
)
#: Bytes/s of one PCIe lane, by generation and by the transfers/s that sysfs names.
_LANE = {"1": 250e6, "2": 500e6, "3": 985e6, "4": 1969e6, "5": 3938e6}
_LANE_OF_SPEED = {"2.5": "1", "5.0": "2", "8.0": "3", "16.0": "4", "32.0": "5"}
#: PCI device ids of NVIDIA (pci.ids), for hosts without a driver.
_PCI_IDS = {
    "0x1b06": "GTX 1080 Ti",
    "0x1b07": "P102-100",
    "0x1b80": "GTX 1080",
    "0x1b81": "GTX 1070",
    "0x1b82": "GTX 1070 Ti",
    "0x1b87": "P104-100",
    "0x1c02": "GTX 1060 3GB",
    "0x1c03": "GTX 1060 6GB",
    "0x1c07": "P106-100",
    "0x1c09": "P106-090",
}
#: First and last id of chips, and their compute capability. Of 468 cards in pci.ids of 2023 it
#: tells 455, and 13 of laptops and servers not at all; none wrong.
_CHIPS = (
    (0x1340, 0x13BF, "50"),  # GM108, GM107
    (0x13C0, 0x143F, "52"),  # GM204, GM206
    (0x15F0, 0x15FF, "60"),  # GP100
    (0x17C0, 0x17FF, "52"),  # GM200
    (0x1B00, 0x1D7F, "61"),  # GP102, GP104, GP106, GP107, GP108
    (0x1D80, 0x1DFF, "70"),  # GV100
    (0x1E00, 0x1FFF, "75"),  # TU102, TU104, TU106, TU117
    (0x2080, 0x20FF, "80"),  # GA100
    (0x2180, 0x21FF, "75"),  # TU116
    (0x2200, 0x22FF, "86"),  # GA102
    (0x2300, 0x237F, "90"),  # GH100
    (0x2400, 0x25FF, "86"),  # GA103, GA104, GA106, GA107
    (0x2680, 0x28FF, "89"),  # AD102, AD103, AD104, AD106, AD107
)


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """Plans of the hosts that could be planned for, and why the others could not."""

    plans: tuple[RigPlan, ...]
    failures: tuple[str, ...]


def plan_fleet(facts: Any, hand: HandSet) -> FleetPlan:
    """A plan for each host.

    Args:
        facts: A list of hosts as playbooks/plan.yml writes it.
        hand: What is fixed for all of them; the inventory's own values come before it.

    Raises:
        ModelError: there are no hosts.
    """
    if not isinstance(facts, list) or not facts:
        raise ModelError("there are no rigs to plan for; is the inventory's group `rigs` empty?")
    plans, failures = [], []
    # One that did not answer may be anything.
    lent = {
        str(host.get("name", "?")): host
        for host in facts
        if host.get("lends") or not host.get("ram_mib")
    }
    for host in facts:
        try:
            if host.get("lends"):
                _check_helper(host, facts)
            else:
                plans.append(_plan_host(host, hand, lent))
        except ModelError as error:
            failures.append(f"{host.get('name', '?')}: {error}")
    return FleetPlan(plans=tuple(plans), failures=tuple(failures))


def _helpers_of(host: Mapping[str, Any]) -> list[str]:
    """The names of the hosts that shall lend a rig their cards.

    Raises:
        ModelError: they are no list.
    """
    said = (host.get("variables") or {}).get("llama_server_helpers") or []
    if not isinstance(said, list):
        raise ModelError(f"llama_server_helpers must be a list, as in [rig2], not {said!r}")
    return [str(name) for name in said]


def _check_helper(helper: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a helper that nobody has, or several.

    Raises:
        ModelError: it is not one rig's.
    """
    rigs = []
    for host in facts:
        with suppress(ModelError):  # said of the rig itself
            if helper["name"] in _helpers_of(host):
                rigs.append(str(host.get("name", "?")))
    if len(rigs) != 1:
        whose = f"{' and '.join(rigs)} name it" if rigs else "no rig names it"
        raise ModelError(
            f"it is in the group `helpers`, and {whose} in llama_server_helpers: let one rig do so"
        )


def _with_helpers(rig: Rig, host: Mapping[str, Any], lent: Mapping[str, Any]) -> Rig:
    """A rig with the helpers that its variables name.

    Raises:
        ModelError: one of them is no helper, or did not answer.
    """
    names = _helpers_of(host)
    if strange := [name for name in names if name not in lent]:
        there = ", ".join(sorted(lent)) or "nobody"
        raise ModelError(
            f"llama_server_helpers names {', '.join(strange)}, and the group `helpers` has {there}"
        )
    helpers, notes = [], []
    for name in names:
        named = (lent[name].get("variables") or {}).get("llama_server_gpus") or []
        uuids = [uuid for gpu in named for uuid in uuids_of(str(gpu.get("uuid")))]
        try:
            told = rig_of(lent[name], uuids)
        except ModelError as error:
            raise ModelError(f"its helper {name}: {error}") from None
        cards = tuple(
            replace(card, uuid=card.uuid and f"{card.uuid}{AT}{name}", host=name)
            for card in told.cards
        )
        helpers.append(Helper(name=name, cards=cards, ram=told.ram))
        notes += [f"{name}: {note}" for note in told.assumed]
    said = (host.get("variables") or {}).get("llama_server_network_mib_s")
    return replace(
        rig,
        helpers=tuple(helpers),
        network=network_of(said),
        assumed=(*rig.assumed, *notes),
    )


def _plan_host(host: Mapping[str, Any], hand: HandSet, lent: Mapping[str, Any]) -> RigPlan:
    variables: Mapping[str, Any] = host.get("variables") or {}
    own = HandSet.from_mapping(
        {key.removeprefix("llama_server_"): value for key, value in variables.items()}, "inventory"
    ).over(hand)
    listed = variables.get("llama_server_gpus") or []
    names = [uuids_of(str(gpu.get("uuid"))) for gpu in listed]
    rig = rig_of(host, [uuid for group in names for uuid in group])
    wanted = str(host.get("model") or "8B")
    models = find_models(wanted)
    rig = _standing_in(rig, {wanted: models})
    if _helpers_of(host):
        return _plan_over(_with_helpers(rig, host, lent), models, own, listed, host)
    if host.get("found") or not listed:
        return plan_grouped(rig, models, own)
    backends = _backends_of(rig, names)
    said = dict(zip(names, listed, strict=True))
    by_backend = [said.get(group, {}) for group, _ in backends]
    hands = [
        HandSet.from_mapping(gpu, f"card {AND.join(group)}")
        for gpu, (group, _) in zip(by_backend, backends, strict=True)
    ]
    files = [str(gpu.get("model_file") or "") for gpu in by_backend]
    own_models = [find_models(file) if file else () for file in files]
    rig = _standing_in(rig, dict(zip(files, own_models, strict=True)))
    groups = [cards for _, cards in backends]
    for group, cards in backends:
        if fault := mixed(cards):
            raise ModelError(f"the group {AND.join(group)} {fault}")
    return plan_rig(rig, models, own, hands, own_models, groups=groups)


def _plan_over(
    rig: Rig,
    models: Sequence[Model],
    own: HandSet,
    listed: Sequence[Mapping[str, Any]],
    host: Mapping[str, Any],
) -> RigPlan:
    """The plan of a rig with helpers, whose cards are found or stand in one entry."""
    if len(listed) > 1 and not host.get("found"):
        raise ModelError(ONE_ENTRY.format(entries=len(listed)))
    (entry, *_) = [*listed, {}]
    file = str(entry.get("model_file") or "")
    own_models = find_models(file) if file else ()
    return plan_over_rigs(
        _standing_in(rig, {file: own_models}),
        models,
        own,
        HandSet.from_mapping(entry, f"card {entry.get('uuid')}"),
        own_models,
    )


def _standing_in(rig: Rig, found: Mapping[str, Sequence[Model]]) -> Rig:
    """The rig with what is to be said of models of which the name alone is known."""
    notes = [note for what, models in found.items() if models for note in stands_in(what, models)]
    return replace(rig, assumed=(*rig.assumed, *notes))


def _backends_of(rig: Rig, names: Sequence[tuple[str, ...]]) -> list[tuple[tuple[str, ...], Cards]]:
    """The cards of each backend that is named, as far as they are there, with how it is named.

    Where none of them is, all cards that there are, as before anybody has named them.
    """
    there = {card.uuid: card for card in rig.cards}
    present = [(group, tuple(there[one] for one in group if one in there)) for group in names]
    return [(group, cards) for group, cards in present if cards] or [
        ((card.uuid,), (card,)) for card in rig.cards
    ]


def rig_of(host: Mapping[str, Any], uuids: list[str]) -> Rig:
    """The rig that a host describes; its cards are those of `uuids`, as far as they are there.

    Raises:
        ModelError: the host did not answer, or shows no card that is known.
    """
    if not host.get("ram_mib"):
        raise ModelError("it did not answer; see above")
    cards, notes = _cards(host, uuids)
    if old := [card.uuid or card.name for card in cards if is_too_old(card)]:
        raise ModelError(
            f"llama.cpp's kernels need compute capability 6.1, and {', '.join(old)} has less: leave"
            " it out with llama_server_gpus_except"
        )
    disk = host.get("disk_bytes")
    return Rig(
        name=str(host.get("name", "?")),
        cards=cards,
        ram=int(host["ram_mib"]) * MIB,
        cores=int(host["cores"]),
        disk=int(disk) if disk is not None else None,
        assumed=notes,
    )


def _cards(host: Mapping[str, Any], uuids: list[str]) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The host's cards, and what is to be said of how they are known."""
    if described := host.get("cards"):
        return _numbered(parse_rig(str(described)).cards, uuids), (
            "its cards are those of plan_cards, not measured",
        )
    smi = host.get("nvidia_smi") or []
    bus = [line.partition(" ")[2] for line in host.get("bus") or []]
    seen = [card for line in smi if (card := from_nvidia_smi(line))]
    if seen:
        return _listed(seen, uuids, [*_unanswered(smi), *_not_driven(seen, bus)])
    found = [card for line in bus if (card := from_sysfs(line))]
    if found:
        return _numbered(tuple(found), uuids), (
            "no nvidia-smi there: the cards' memory is taken from a list, not measured",
            *_unlisted(bus),
        )
    raise ModelError(
        "neither nvidia-smi nor the PCI bus shows a card that is known"
        f"{''.join(f' ({note})' for note in [*_unanswered(smi), *_unlisted(bus)])}. Give the cards,"
        " in the inventory or with -e, for example plan_cards='P106-100 x 6', and of one that is"
        " not listed its memory: plan_cards='card 8 GB x 2'."
    )


def _listed(
    seen: Sequence[Card], uuids: Sequence[str], notes: Sequence[str]
) -> tuple[tuple[Card, ...], tuple[str, ...]]:
    """The cards that the inventory names, and what is to be said of the others."""
    by_uuid = {card.uuid: card for card in seen}
    wanted = tuple(by_uuid[uuid] for uuid in uuids if uuid in by_uuid)
    absent = [f"{uuid} of the inventory is not there" for uuid in uuids if uuid not in by_uuid]
    unnamed = [
        f"{card.uuid} ({card.name}) is there and not in the inventory"
        for card in seen
        if uuids and card.uuid not in uuids
    ]
    return wanted or tuple(seen), (*notes, *absent, *unnamed)


def _unanswered(lines: Sequence[str]) -> list[str]:
    """Cards of which nvidia-smi knows no memory, a note for each."""
    return [
        f"nvidia-smi says '{line.strip()}', which is no card with its memory: it is left out"
        for line in lines
        if line.strip() and not from_nvidia_smi(line)
    ]


def _not_driven(seen: Sequence[Card], bus: Sequence[str]) -> list[str]:
    """A note where the bus has more of NVIDIA's cards than the driver."""
    if len(bus) <= len(seen):
        return []
    counts = f"the PCI bus shows {len(bus)} cards of NVIDIA and nvidia-smi {len(seen)}"
    return [f"{counts}: the others are left out"]


def _unlisted(bus: Sequence[str]) -> list[str]:
    """Cards on the bus whose ids are not listed here, a note for each id."""
    ids = [line.split()[0] for line in bus if line.split() and not from_sysfs(line)]
    return [
        f"a card of NVIDIA with the PCI id {number} is unknown here and left out"
        f"{f' ({ids.count(number)} of them)' if ids.count(number) > 1 else ''}: name it with its"
        " memory in plan_cards, as in 'card 8 GB'"
        for number in dict.fromkeys(ids)
    ]


def _numbered(cards: tuple[Card, ...], uuids: Sequence[str]) -> tuple[Card, ...]:
    """Cards of which no UUID is known get the inventory's, in order, where their number agrees."""
    if len(cards) != len(uuids):
        return cards
    return tuple(replace(card, uuid=uuid) for card, uuid in zip(cards, uuids, strict=True))


def from_nvidia_smi(line: str) -> Card | None:
    """A card from a line of ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits``.

    A field that the card does not support is ``[N/A]`` or ``[Not Supported]``. None where the line
    says no memory: a card that is falling off the bus.
    """
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != len(QUERY):
        return None
    uuid, name, total, reserved, generation, width, _, capability = fields
    if not total.isdigit():
        return None
    # Drivers from 510 on count what they keep for themselves into the total.
    vram = int(total) - (int(reserved) if reserved.isdigit() else 0)
    return make_card(
        name,
        vram=vram * MIB,
        link=_link(generation, width),
        uuid=uuid,
        capability=capability.replace(".", "") if capability[:1].isdigit() else "",
    )


def from_sysfs(line: str) -> Card | None:
    """A card from "device id, link width, link speed" of /sys/bus/pci.

    None where the id is not one of the cards that are known.
    """
    number, width, speed = (*line.split(), "", "", "")[:3]
    name = _PCI_IDS.get(number)
    link = _link(_LANE_OF_SPEED.get(speed, ""), width)
    return make_card(name, link=link, capability=capability_of(number)) if name else None


def capability_of(device: str) -> str:
    """Compute capability, without the dot, of a PCI device id of NVIDIA; "" where it is not known.

    NVIDIA gives each chip a range of ids (pci.ids); a generation's chips have the capability that
    the CUDA C Programming Guide lists for it.
    """
    try:
        number = int(device, 16)
    except ValueError:
        return ""
    return next((text for first, last, text in _CHIPS if first <= number <= last), "")


def _link(generation: str, width: str) -> int:
    if not width.isdigit():
        return 0
    return int(_LANE.get(generation, X1_LINK) * int(width))
