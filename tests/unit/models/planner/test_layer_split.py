"""Which card of a group holds what, and how much of it."""

from dataclasses import replace
from itertools import accumulate, pairwise

import pytest
from heartcode_models.errors import ModelError
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import HOPPER, PASCAL, Card, make_card
from heartcode_models.planner.compute_graph import Part
from heartcode_models.planner.known_models import known_model
from heartcode_models.planner.kv_of_layers import kv_of_layer
from heartcode_models.planner.layer_split import assigned, shares
from heartcode_models.planner.settings import Settings
from heartcode_models.planner.vram import usable, vram_need, weights, weights_of
from heartcode_models.units import MIB
from hypothesis import given
from hypothesis import strategies as st

DENSE, EXPERTS = known_model("24B", "Q4_K_M"), known_model("30B-A3B", "Q4_K_M")
LARGEST_ERROR = 0.08
#: One MiB, as numbers were written down in whole ones.
ROUNDING = 1.0


def settings(layers: int, *, n_ctx: int = 8192, slots: int = 2, n_cpu_moe: int = 0) -> Settings:
    return Settings(
        n_ctx=n_ctx,
        slots=slots,
        kv_type="q8_0",
        n_batch=512,
        n_ubatch=512,
        n_gpu_layers=layers,
        n_cpu_moe=n_cpu_moe,
    )


def card(name: str) -> Card:
    made = make_card(name)
    assert made
    return made


#: What llama-server 0c1e57098 reported on an H100 as several devices of one (GGML_CUDA_DEVICES),
#: -sm layer with equal parts, 2 x 8192 in q8_0, ubatch 512: MiB of weights and of KV cache on each
#: device, and of computing on each.
ON_SEVERAL = [
    (DENSE, (4515, 4344, 4443), (476, 476, 408), 292),
    # Its experts' types were not those of the quantiser, so its weights count as a whole.
    (EXPERTS, (), (221, 204, 204, 187), 136),
]


@pytest.mark.parametrize(
    ("model", "weights_mib", "kv_mib", "compute"), ON_SEVERAL, ids=["24B", "30B-A3B"]
)
def test_each_device_holds_what_was_measured(
    model: Model, weights_mib: tuple[int, ...], kv_mib: tuple[int, ...], compute: int
) -> None:
    wanted = settings(model.all_layers)
    start = 0
    for number, count in enumerate(assigned([1.0] * len(kv_mib), model.all_layers)):
        layers = range(start, start + count)
        part = Part(last=layers.stop == model.all_layers, copies=4)
        need = vram_need(model, wanted, generation=HOPPER, layers=layers, part=part)
        assert need.kv == kv_mib[number] * MIB
        assert compute - 0.5 <= need.compute / MIB <= compute * (1 + LARGEST_ERROR)
        if weights_mib:
            assert abs(need.weights / MIB - weights_mib[number]) <= ROUNDING
        start = layers.stop
    assert start == model.all_layers


#: The same on an H200 with the planner's own split over equal cards (measure_plan.py --devices):
#: size, slots, and of each device its layers, and MiB of weights, KV cache and computing.
SPLIT = [
    (
        "24B",
        2,
        [(14, 4514.6, 476, 292.4), (14, 4344.4, 476, 292.4), (13, 4443.3, 408, 292.4)],
    ),
    (
        "30B-A3B",
        2,
        [
            (12, 4419.8, 204, 136.3),
            (13, 4555.9, 221, 136.3),
            (13, 4555.9, 221, 136.3),
            (11, 3992.9, 170, 136.3),
        ],
    ),
    ("12B", 1, [(22, 3411.7, 374, 184.3), (19, 3351.6, 306, 184.3)]),
    ("12B", 2, [(21, 3265.4, 714, 184.3), (20, 3497.9, 646, 184.3)]),
]


@pytest.mark.parametrize(("size", "slots", "devices"), SPLIT)
def test_the_planner_s_own_split_takes_what_was_measured(
    size: str, slots: int, devices: list[tuple[int, float, float, float]]
) -> None:
    model = known_model(size, "Q4_K_M")
    equal = Card(name="H200", vram=143155 * MIB, generation=HOPPER)
    planned = shares((equal,) * len(devices), model, settings(model.all_layers, slots=slots))
    for share, (layers, weights_mib, kv_mib, compute) in zip(planned, devices, strict=True):
        assert len(share.layers) == layers
        for what, measured in ((share.need.weights, weights_mib), (share.need.compute, compute)):
            assert what / MIB == pytest.approx(measured, abs=0.15)
        assert share.need.kv == kv_mib * MIB


@pytest.mark.parametrize(
    ("model", "on_device", "on_host"), [(DENSE, 13302, 360), (EXPERTS, 17531, 167)]
)
def test_the_weights_of_large_models_are_what_was_measured(
    model: Model, on_device: int, on_host: int
) -> None:
    assert weights(model, model.all_layers) / MIB == pytest.approx(on_device, rel=0.0005)
    assert model.embedding_bytes / MIB == pytest.approx(on_host, abs=0.6)


@pytest.mark.parametrize(
    ("tensor_split", "items", "layers"),
    [
        ([1, 1, 1], 41, (14, 14, 13)),
        ([1, 1, 1, 1], 49, (13, 12, 12, 12)),
        # A layer that begins where a card's part ends is the next card's.
        ([1, 1, 1], 3, (1, 1, 1)),
        ([1, 0, 1], 4, (2, 0, 2)),
        ([5939, 8034], 41, (18, 23)),
        ([0.1, 0.2, 0.7], 10, (1, 2, 7)),
    ],
)
def test_llama_cpp_s_way_of_sharing_layers_out(
    tensor_split: list[float], items: int, layers: tuple[int, ...]
) -> None:
    assert assigned(tensor_split, items) == layers


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_numbers_of_layers_are_a_tensor_split_that_gives_them(layers: list[int]) -> None:
    assert assigned(layers, sum(layers)) == tuple(layers)


@given(
    cards=st.lists(st.integers(3000, 12000), min_size=2, max_size=8),
    slots=st.integers(1, 4),
    n_ctx=st.sampled_from([4096, 8192, 16384]),
    model=st.sampled_from([DENSE, EXPERTS]),
)
def test_a_split_holds_the_whole_model_once(
    cards: list[int], slots: int, n_ctx: int, model: Model
) -> None:
    group = tuple(Card(name=str(mib), vram=mib * MIB, generation=PASCAL) for mib in cards)
    wanted = settings(model.all_layers, n_ctx=n_ctx, slots=slots)
    made = shares(group, model, wanted)
    assert [share.card for share in made] == list(group)
    assert made[0].layers.start == 0
    assert [share.layers.start for share in made[1:]] == [s.layers.stop for s in made[:-1]]
    assert made[-1].layers.stop == model.all_layers
    assert all(len(share.layers) for share in made)
    assert sum(share.need.weights for share in made) == weights(model, model.all_layers)
    whole = vram_need(model, wanted)
    assert sum(share.need.kv for share in made) == whole.kv
    for share in made:
        assert share.need.weights == weights_of(model, share.layers)
        assert share.room == usable(share.card.vram) - share.need.total


@given(
    cards=st.lists(st.integers(3000, 12000), min_size=2, max_size=3),
    slots=st.integers(1, 4),
)
def test_no_other_split_leaves_the_fullest_card_more_room(cards: list[int], slots: int) -> None:
    group = tuple(Card(name=str(mib), vram=mib * MIB, generation=PASCAL) for mib in cards)
    wanted = settings(DENSE.all_layers, slots=slots)
    made = shares(group, DENSE, wanted)
    fullest = min(share.room for share in made)
    beside = [share.room + share.need.weights + share.need.kv for share in made]
    last = DENSE.all_layers
    cuts = range(1, last)
    inner = (
        [(a,) for a in cuts] if len(group) == 2 else [(a, b) for a in cuts for b in cuts if a < b]
    )
    held = list(
        accumulate(
            (
                weights_of(DENSE, range(layer, layer + 1)) + kv_of_layer(DENSE, wanted, layer)
                for layer in range(last)
            ),
            initial=0,
        )
    )
    for cut in inner:
        sizes = [held[end] - held[start] for start, end in pairwise((0, *cut, last))]
        other = min(free - size for free, size in zip(beside, sizes, strict=True))
        assert other <= fullest + MIB // 2


def test_a_larger_card_gets_more_layers() -> None:
    small, large = shares(
        (card("P106-100"), card("GTX 1080 Ti")), DENSE, settings(DENSE.all_layers)
    )
    assert len(large.layers) > 1.5 * len(small.layers)


def test_experts_that_stay_with_the_cpu_are_on_no_card() -> None:
    group = (card("P106-100"),) * 2
    whole = shares(group, EXPERTS, settings(49))
    away = shares(group, EXPERTS, settings(49, n_cpu_moe=48))
    held = sum(share.need.weights for share in whole) - sum(share.need.weights for share in away)
    assert held == sum(EXPERTS.expert_bytes)
    # Tensors that are kept from the cards by name turn the overlap of batches off; but prompts
    # have the experts of a layer sent to the card, one matrix at a time.
    alone = vram_need(EXPERTS, settings(49)).compute
    assert {share.need.compute for share in away} >= {alone + EXPERTS.largest_matrix_bytes}


def test_what_a_group_cannot_do_is_refused_by_its_reason() -> None:
    group = (card("P106-100"),) * 2
    with pytest.raises(ModelError, match="Leave n_gpu_layers out"):
        shares(group, DENSE, settings(40))
    with pytest.raises(ModelError, match="fewer layers"):
        shares((card("P106-100"),) * 42, DENSE, settings(41))
    one = replace(DENSE, n_layers=1, layer_bytes=DENSE.layer_bytes[:1], kv_heads=(8,))
    assert [len(share.layers) for share in shares(group, one, settings(2))] == [1, 1]
