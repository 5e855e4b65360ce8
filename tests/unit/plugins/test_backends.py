"""What follows from a rig's cards, models and RAM for its llama-servers."""

import json
from dataclasses import replace
from typing import Any

import pytest
from heartcode_models.planner.description import parse_rig
from heartcode_models.planner.known_models import known_model
from heartcode_models.planner.rig_plan import plan_rig
from heartcode_models.planner.settings import HandSet
from heartcode_models.units import mib

from plugins.filter import backends

CARDS: list[dict[str, Any]] = [
    {"uuid": "GPU-1"},
    {"uuid": "GPU-2", "model_file": "large.gguf", "kv_type": "f16", "cache_ram_mib": 0},
]
FILES = ["small.gguf", "large.gguf"]
MIB = 2**20


def test_a_file_is_as_large_as_the_catalogue_says_or_as_it_lies_there() -> None:
    found = [
        {"item": "small.gguf", "stat": {"exists": True, "size": 3 * MIB}},
        {"item": "large.gguf", "stat": {"exists": False}},
    ]
    assert backends.backend_sizes(FILES, {}, found) == [3, 0]
    assert backends.backend_sizes(FILES, {"large.gguf": 5 * MIB + 1}, found) == [3, 6]


def test_a_turn_is_as_long_as_the_file_takes_and_a_start_all_turns() -> None:
    cards = [CARDS[0], CARDS[1] | {"load_mib_s": 100}]
    timeouts = backends.load_timeouts_s([1000, 5001], cards, 25)
    assert timeouts == [340, 351]
    assert backends.start_timeout_s(timeouts, 1, cards) == 120 + 691 + 351
    assert backends.start_timeout_s(timeouts, 2, cards) == 120 + 345 + 351


def test_a_group_s_turn_is_as_long_as_its_cards_take_one_after_the_other() -> None:
    cards = [CARDS[0], {"uuid": "GPU-2+GPU-3+GPU-4"}]
    timeouts = backends.load_timeouts_s([1000, 14000], cards, 25)
    assert timeouts == [340, 300 + 2 * 60 + 560]
    assert backends.start_timeout_s(timeouts, 1, cards) == 120 + 2 * 20 + sum(timeouts) + 980


#: A group of which the first three cards are lent.
LENT = {
    "uuid": "GPU-1@rig2+GPU-2@rig2+GPU-3@rig3+GPU-4",
    "tensor_split": [10, 10, 10, 11],
    "helpers": [
        {"name": "rig2", "endpoint": "192.168.1.22:50052", "cards": 2},
        {"name": "rig3", "endpoint": "192.168.1.23:50052", "cards": 1},
    ],
}


def test_what_is_for_lent_cards_goes_over_the_network_too() -> None:
    every, here = 300 + 3 * 60, 8200 // 25
    assert backends.load_timeouts_s([8200], [LENT], 25, 60) == [every + here + 100]
    # A gigabit, where nothing else is said: 54.5 s.
    assert backends.load_timeouts_s([8200], [LENT], 25) == [every + here + 55]
    # Where the CPU computes all layers are with the helpers.
    on_cpu = {"uuid": "cpu@rig2+cpu", "tensor_split": [41], "helpers": LENT["helpers"][:1]}
    assert backends.load_timeouts_s([8200], [on_cpu], 25, 82) == [300 + 60 + here + 100]


MODEL = known_model("8B", "Q4_K_M")
FILE_MIB = mib(MODEL.file_bytes)
VALUES: dict[str, Any] = {
    "model_file": "small.gguf",
    "n_gpu_layers": "all",
    "n_ctx": 4096,
    "slots": 2,
    "kv_type": "q8_0",
    "n_batch": 512,
    "n_ubatch": 512,
    "cache_ram_mib": None,
    "memory_max_mib": 0,
    "load_mode": "none",
    "tuned": {},
}
SHAPES = [{"item": "small.gguf", "stdout": json.dumps(MODEL.as_data())}]
#: What a host says that has neither the program nor the model.
UNKNOWN = [{"item": "small.gguf", "rc": 2}]


def ram(
    host_mib: int,
    cards: int = 2,
    shapes: list[dict[str, Any]] = SHAPES,
    of_second: dict[str, Any] | None = None,
    **changes: Any,
) -> list[dict[str, int]]:
    listed = [{"uuid": f"GPU-{number}"} for number in range(cards)]
    if of_second:
        listed[1] |= of_second
    return backends.backend_ram(listed, VALUES | changes, shapes, [FILE_MIB] * cards, host_mib)


@pytest.mark.parametrize("load_mode", ["none", "mmap"])
@pytest.mark.parametrize("gigabytes", [4, 8, 16, 64])
def test_a_prompt_cache_is_as_large_as_the_planner_says(gigabytes: int, load_mode: str) -> None:
    hand = {"n_ctx": 4096, "slots": 2, "load_mode": load_mode, "kv_type": "q8_0"}
    made = plan_rig(
        parse_rig(f"P106-100 x 6, {gigabytes} GB RAM"),
        [MODEL],
        HandSet.from_mapping(hand, "test"),
    )
    own = ram(made.rig.ram // MIB, cards=6, load_mode=load_mode)
    assert [one["cache_ram_mib"] for one in own] == [s.cache_ram_mib for s in made.servers]
    assert [one["cached_tokens"] for one in own] == [s.cached_tokens for s in made.servers]


def test_a_small_rig_has_no_prompt_cache_and_what_it_has_is_the_host_s() -> None:
    assert [one["cache_ram_mib"] for one in ram(3891, cards=6)] == [0] * 6
    both = ram(16 * 1024)
    assert both[0] == both[1]
    assert 2 * both[0]["cache_ram_mib"] < 16 * 1024


def test_a_cache_that_is_set_is_kept_and_leaves_less_for_the_others() -> None:
    free, _ = ram(16 * 1024)
    other, own = ram(16 * 1024, of_second={"cache_ram_mib": 8192})
    assert (own["cache_ram_mib"], other["cache_ram_mib"] < free["cache_ram_mib"]) == (8192, True)
    assert {one["cache_ram_mib"] for one in ram(16 * 1024, cache_ram_mib="100")} == {100}
    # A value by hand for all, and one for a card before it.
    assert ram(4096, cache_ram_mib=100, of_second={"cache_ram_mib": 0})[1]["cache_ram_mib"] == 0


def test_a_token_takes_what_its_cache_s_type_does() -> None:
    (q8_0, f16) = ram(16 * 1024, cache_ram_mib=1088, of_second={"kv_type": "f16"})
    # 68 KiB and 128 KiB.
    assert (q8_0["cached_tokens"], f16["cached_tokens"]) == (1088 * 1024 // 68, 1088 * 1024 // 128)
    # What was measured best goes before what the planner took.
    tuned = {"GPU-0": {"settings": {"kv_type": "f16"}}}
    first, second = ram(16384, cache_ram_mib=1088, tuned=tuned)
    assert (first["cached_tokens"], second["cached_tokens"]) == (
        f16["cached_tokens"],
        q8_0["cached_tokens"],
    )
    assert ram(16384, cache_ram_mib=10**8)[0]["cached_tokens"] == backends.MOST_TOKENS
    assert ram(16384, shapes=UNKNOWN, cache_ram_mib=100)[0]["cached_tokens"] == 0


def limit(host_mib: int, **changes: Any) -> int:
    """MiB of each of twelve, so that a share of the host is little."""
    first, *others = ram(host_mib, cards=12, cache_ram_mib=100, **changes)
    assert others == [first] * 11
    return first["memory_max_mib"]


def with_reserve(need: int) -> int:
    return need + need // 4 + 256


#: MiB of two slots beside weights, KV and prompts: libraries, the process, CUDA's and what goes to
#: and from the card.
BESIDE = 115 + (16 + 49 + 5) + (275 + 12 + 70 + 45) + (16 + 4 + 1)


@pytest.mark.parametrize(
    ("changes", "weights_mib", "kv_mib"),
    [
        ({}, mib(MODEL.embedding_bytes), 0),
        ({"n_gpu_layers": 33}, mib(MODEL.embedding_bytes), 0),
        ({"load_mode": "mmap"}, FILE_MIB, 0),
        ({"n_gpu_layers": 0}, FILE_MIB - 8, 544),  # 8 MiB are the vocabulary
        # One layer less is one layer's weights and KV more.
        ({"n_gpu_layers": 32}, mib(MODEL.embedding_bytes + MODEL.layer_bytes[0]), 17),
    ],
)
def test_memory_is_limited_to_what_the_planner_says_with_a_reserve(
    changes: dict[str, Any], weights_mib: int, kv_mib: int
) -> None:
    need = weights_mib + kv_mib + 100 + BESIDE
    assert limit(9000, **changes) == pytest.approx(with_reserve(need), abs=6)


def test_what_cuda_takes_for_lent_cards_it_takes_where_they_are() -> None:
    split = {"tensor_split": [11, 11, 11]}
    two_lent = [{"name": "rig2", "endpoint": "192.168.1.22:50052", "cards": 2}]
    all_here, alone = limit(9000, **split), limit(9000)
    lent = limit(9000, **split, helpers=two_lent)
    # Two slots of CUDA's own, and with the cards of others two copies of what is sent to them.
    cuda, sent = 275 + 12 + 70 + 45, 2 * mib(MODEL.largest_matrix_bytes)
    assert all_here - lent == pytest.approx((2 * cuda - sent) * 1.25, abs=3)
    assert alone < lent


def test_memory_is_limited_to_the_share_of_the_host_where_that_is_more() -> None:
    assert limit(64 * 1024) == (64 * 1024 - 1024) // 12
    # No more than the host has.
    assert limit(4096, n_gpu_layers=0) == 4096 - 512
    assert limit(4096, memory_max_mib="900") == 900
    first, second = ram(4096, cache_ram_mib=0, of_second={"memory_max_mib": "1234"})
    assert (first["memory_max_mib"] == 1234, second["memory_max_mib"]) == (False, 1234)


def test_33_layers_are_not_all_of_a_model_that_has_more() -> None:
    layers, heads = MODEL.layer_bytes[:8], MODEL.kv_heads[:8]
    more = replace(
        MODEL,
        n_layers=40,
        layer_bytes=MODEL.layer_bytes + layers,
        kv_heads=MODEL.kv_heads + heads,
    )
    shapes = [{"item": "small.gguf", "stdout": json.dumps(more.as_data())}]
    whole = limit(9000, shapes=shapes)
    assert whole == limit(9000, shapes=shapes, n_gpu_layers=41)
    assert whole < limit(9000, shapes=shapes, n_gpu_layers=33)


def test_of_an_unknown_model_a_quarter_or_all_of_its_file_is_in_host_ram() -> None:
    def unknown(**changes: Any) -> int:
        return limit(10_000, shapes=UNKNOWN, **changes)

    beside = BESIDE + 100
    assert unknown() == pytest.approx(with_reserve(FILE_MIB // 4 + beside), abs=6)
    # How many layers all of them are is not known either.
    for changes in ({"n_gpu_layers": 33}, {"n_gpu_layers": 0}):
        kv = 2 * 4096 // 8
        assert unknown(kv_type="f16", **changes) == pytest.approx(
            with_reserve(FILE_MIB + kv + beside), abs=6
        )


def test_another_file_of_the_same_name_is_kept_under_another_one() -> None:
    def paths(*written: float) -> list[str]:
        found = [
            {"item": name, "stat": {"exists": True, "mtime": mtime}}
            for name, mtime in zip(("a", "b"), written, strict=True)
        ]
        return backends.kept_models(["a", "b", "a"], found, "/kept")

    first, second, third = paths(1764290000.123, 1764290000.123)
    assert first == third
    assert second != first
    assert first.startswith("/kept/")
    assert first.endswith(".a")
    assert paths(1764290000.124, 1764290000.123) != [first, second, third]


def test_a_model_that_a_dry_run_has_not_brought_has_no_time() -> None:
    assert backends.kept_models(["a"], [{"item": "a", "stat": {"exists": False}}], "/kept") == [
        "/kept/new.a"
    ]


def test_models_that_nothing_names_are_let_go() -> None:
    named = ["MODEL_PATH=/kept/1.a", "MODEL_PATH=/models/plain.gguf"]
    removed = backends.unnamed_models(["/kept/1.a", "/kept/2.a", "/kept/3.a"], named, ["/kept/3.a"])
    assert removed == [{"path": "/kept/2.a", "state": "absent"}]
