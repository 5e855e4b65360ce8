"""Which card of a group holds which layers (``-sm layer``).

Source: ``llama_model_base::load_tensors``, src/llama-model.cpp, and ``llama_context``,
src/llama-context.cpp, of the pinned llama.cpp (ggml-org/llama.cpp 0c1e57098).
"""

from bisect import bisect_right
from collections.abc import Sequence
from ctypes import c_float
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise

from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import CPU, Card
from heartcode_models.planner.compute_graph import Part, part_copies
from heartcode_models.planner.host_ram import cpu_need
from heartcode_models.planner.kv_of_layers import kv_of_layer
from heartcode_models.planner.settings import Settings
from heartcode_models.planner.vram import (
    VramNeed,
    layers_on_cards,
    usable,
    vram_need,
    weights_of,
)
from heartcode_models.units import MIB

#: The cards of one backend, in the order in which its llama-server sees them.
Cards = tuple[Card, ...]
#: llama.cpp computes on so many devices at most, and the CPU is one of them
#: (``GGML_SCHED_MAX_BACKENDS``, ggml/src/ggml-backend.cpp, which it asserts).
MOST_CARDS = 15


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one card of a backend holds.

    Attributes:
        card: The card.
        layers: Numbers of its layers; the model's number of layers stands for the output.
        need: The VRAM that takes.
    """

    card: Card
    layers: range
    need: VramNeed

    @property
    def room(self) -> int:
        """Bytes that stay free of what can be planned for; negative where they are lacking."""
        return usable(self.card.vram) - self.need.total


def assigned(tensor_split: Sequence[float], items: int) -> tuple[int, ...]:
    """How many of a model's layers each card gets from ``--tensor-split``.

    llama.cpp adds the numbers up, in f32, divides by their sum, and puts layer i of n on the first
    card whose part ends behind i / n (``get_layer_buft_list``). The output is the last of the n.

    Args:
        tensor_split: A number for each card.
        items: Layers on cards, the output counted as one.
    """
    ends = list(accumulate(tensor_split, lambda total, part: _f32(total + _f32(part))))
    points = [_f32(end / ends[-1]) for end in ends]
    cards = [bisect_right(points, _f32(item / items)) for item in range(items)]
    return tuple(cards.count(card) for card in range(len(points)))


def _f32(value: float) -> float:
    return c_float(value).value


@lru_cache(maxsize=1 << 14)
def shares(cards: Cards, model: Model, settings: Settings) -> tuple[Share, ...]:
    """What each card of a backend holds.

    A group's layers are shared out so that the fullest card has as much room as can be. The numbers
    for ``--tensor-split`` are how many layers each has, which `assigned` gives back as they are.

    Raises:
        ModelError: there are more cards than layers or than llama.cpp takes, or not all layers are
            to be on the cards.
    """
    if len(cards) == 1:
        layers = layers_on_cards(model, settings.n_gpu_layers)
        return (Share(card=cards[0], layers=layers, need=_need_alone(cards[0], model, settings)),)
    if settings.n_gpu_layers < model.all_layers:
        raise ModelError(
            f"n_gpu_layers {settings.n_gpu_layers} leaves layers to the CPU; a group of cards holds"
            f" all {model.all_layers}. Leave n_gpu_layers out"
        )
    if len(cards) > model.all_layers:
        raise ModelError(f"{model.name} has fewer layers than the group has cards")
    if len(cards) > MOST_CARDS:
        raise ModelError(
            f"{len(cards)} cards are more than llama.cpp computes on together; {MOST_CARDS} would"
            f" work: leave {len(cards) - MOST_CARDS} out"
        )
    return _Spread(cards, model, settings).best()


def needs(
    cards: Cards,
    model: Model,
    settings: Settings,
    tensor_split: Sequence[float],
    *,
    flash_attention: bool = True,
) -> tuple[VramNeed, ...]:
    """What each card takes with a split that is given; a card that is alone has all layers."""
    if len(cards) == 1:
        card = cards[0]
        need = vram_need(
            model, settings, flash_attention=flash_attention, generation=card.generation
        )
        return (need,)
    ends = list(accumulate(assigned(tensor_split, model.all_layers), initial=0))
    copies = part_copies(settings, several=True)
    return tuple(
        vram_need(
            model,
            settings,
            flash_attention=flash_attention,
            generation=card.generation,
            layers=range(*ends[number : number + 2]),
            part=Part(last=number == len(cards) - 1, copies=copies),
        )
        for number, card in enumerate(cards)
    )


def _need_alone(card: Card, model: Model, settings: Settings) -> VramNeed:
    if card.generation is CPU and not card.host:
        return cpu_need(model, settings)
    return vram_need(model, settings, generation=card.generation)


class _Spread:
    """Shares a model's layers out among the cards of a group."""

    def __init__(self, cards: Cards, model: Model, settings: Settings) -> None:
        self._cards = cards
        every = range(model.all_layers)
        self._weights = [
            weights_of(model, range(layer, layer + 1), settings.n_cpu_moe) for layer in every
        ]
        self._kv = [kv_of_layer(model, settings, layer) for layer in every]
        sizes = [own + kv for own, kv in zip(self._weights, self._kv, strict=True)]
        #: Bytes of the layers before each one.
        self._held = list(accumulate(sizes, initial=0))
        self._beside = [
            vram_need(
                model,
                settings,
                generation=card.generation,
                layers=range(0),
                part=Part(
                    last=number == len(cards) - 1, copies=part_copies(settings, several=True)
                ),
            )
            for number, card in enumerate(cards)
        ]

    def best(self) -> tuple[Share, ...]:
        """The split whose fullest card has most room, to half a MiB."""
        everything = sum(self._weights) + sum(self._kv)
        low = min(self._free(number) for number in range(len(self._cards))) - everything
        high = max(self._free(number) for number in range(len(self._cards)))
        best = self._with_room(low)
        while high - low > MIB // 2:
            middle = (low + high) // 2
            if found := self._with_room(middle):
                best, low = found, middle
            else:
                high = middle
        assert best is not None  # noqa: S101 (with so little room any split will do)
        return best

    def _free(self, number: int) -> int:
        """Bytes that a card has for layers."""
        return usable(self._cards[number].vram) - self._beside[number].total

    def _with_room(self, room: int) -> tuple[Share, ...] | None:
        """A split that leaves at least so much room on each card, None where there is none.

        The first cards take as many layers as they can. Not always: layers differ in size, and a
        card that has room for one of the smaller ones alone may need those before it to stop there.
        """
        items = len(self._weights)
        # By card where its layers may end, each with the last layer that it may begin with then.
        ways: list[dict[int, int]] = []
        begins = [0]
        for number in range(len(self._cards)):
            left = self._free(number) - room
            last = items - (len(self._cards) - 1 - number)
            ends: dict[int, int] = {}
            for start, following in pairwise([*begins, last]):
                farthest = bisect_right(self._held, self._held[start] + left) - 1
                ends.update(dict.fromkeys(range(start + 1, min(farthest, following) + 1), start))
            ways.append(ends)
            begins = sorted(ends)
        if items not in ways[-1]:
            return None
        made: list[Share] = []
        end = items
        for number in reversed(range(len(self._cards))):
            start = ways[number][end]
            made.append(self._share(number, range(start, end)))
            end = start
        return tuple(reversed(made))

    def _share(self, number: int, layers: range) -> Share:
        need = replace(
            self._beside[number],
            weights=sum(self._weights[layers.start : layers.stop]),
            kv=sum(self._kv[layers.start : layers.stop]),
        )
        return Share(card=self._cards[number], layers=layers, need=need)
