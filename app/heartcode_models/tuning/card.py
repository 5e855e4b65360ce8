"""What is known of each card of a host before it is tuned."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import Card, uuids_of
from heartcode_models.planner.facts import rig_of
from heartcode_models.planner.layer_split import Cards
from heartcode_models.planner.settings import ALL_LAYERS, HandSet
from heartcode_models.tuning.candidate import NAMES, Candidate, checked

#: What a budget depends on beside a candidate.
_ROOM = ("n_ctx", "slots", "n_gpu_layers")


@dataclass(frozen=True, kw_only=True)
class TunedCard:
    """One card of a host, or a group of them, with its backend's settings.

    Attributes:
        rig: The host's inventory name.
        uuid: As in the inventory; of a group all of them (`uuids_of`).
        model_file: The GGUF that its backend serves.
        cards: The card, or those of the group; none where one of them is not there, or the CPU
            computes and no card's memory counts.
        tensor_split: How the layers of a group are shared out.
        n_ctx: Tokens of one conversation.
        slots: Conversations at a time.
        n_gpu_layers: Layers on the card, or `ALL_LAYERS`.
        fixed: What the inventory sets among a candidate's names: it is not tuned.
        current: What its backend runs with.
    """

    rig: str
    uuid: str
    model_file: str
    cards: Cards
    tensor_split: tuple[float, ...]
    n_ctx: int
    slots: int
    n_gpu_layers: int | str
    fixed: Mapping[str, Any]
    current: Candidate

    @property
    def where(self) -> str:
        """For messages."""
        return f"{self.rig} {self.uuid}"


def cards_of(host: Mapping[str, Any]) -> Iterator[TunedCard]:
    """The cards of a host as the role ``tuning`` describes it (docs/tuning.md).

    Raises:
        ModelError: a value cannot be, or a card is not there.
    """
    gpus = host["gpus"]
    cards = _present(host, [uuid for gpu in gpus for uuid in uuids_of(gpu["uuid"])])
    for gpu in gpus:
        uuid = gpu["uuid"]
        where = f"{host['name']} {uuid}"
        said = {**host["explicit"], **host["said"].get(uuid, {})}
        fixed = {
            name: checked(name, value, where)
            for name in NAMES
            if (value := said.get(name)) is not None
        }
        # The inventory before what was tuned before, and that before what the planner chooses.
        values = {**host["values"], **gpu, **host["tuned"].get(uuid, {}), **said}
        room = HandSet.from_mapping({name: values[name] for name in _ROOM}, where)
        yield TunedCard(
            rig=str(host["name"]),
            uuid=uuid,
            model_file=gpu["model_file"],
            cards=_cards(gpu, cards),
            tensor_split=tuple(gpu.get("tensor_split", ())),
            n_ctx=room.n_ctx or 0,
            slots=room.slots or 0,
            n_gpu_layers=ALL_LAYERS if room.n_gpu_layers is None else room.n_gpu_layers,
            fixed=fixed,
            current=Candidate.from_data(values, where),
        )


def _cards(gpu: Mapping[str, Any], present: Mapping[str, Card]) -> Cards:
    uuids = uuids_of(gpu["uuid"])
    if len(uuids) > 1 and "tensor_split" not in gpu:
        return ()  # the CPU computes for them
    found = tuple(card for uuid in uuids if (card := present.get(uuid)))
    return found if len(found) == len(uuids) else ()


def _present(host: Mapping[str, Any], uuids: list[str]) -> dict[str, Card]:
    """The cards by UUID, those that are there."""
    try:
        return {card.uuid: card for card in rig_of(host, uuids).cards}
    except ModelError:
        if host["backend"] == "cpu":
            return {}
        raise
