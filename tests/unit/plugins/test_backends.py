"""What follows from a rig's cards, models and RAM for its llama-servers."""

from typing import Any

import pytest

from plugins.filter import backends

CARDS: list[dict[str, Any]] = [
    {"uuid": "GPU-1"},
    {"uuid": "GPU-2", "model_file": "large.gguf", "kv_type": "f16", "cache_ram_mib": 0},
]
FILES = ["small.gguf", "large.gguf"]
MIB = 2**20


def test_a_card_has_its_own_file_or_the_rig_s() -> None:
    assert backends.backend_files(CARDS, "small.gguf") == FILES


@pytest.mark.parametrize(
    ("name", "card_name", "names"),
    [
        ("small", None, ["small", "large"]),  # the default: nobody has set it
        ("stheno", None, ["stheno", "stheno"]),
        ("stheno", "big", ["stheno", "big"]),
        ("small", "big", ["small", "big"]),
    ],
)
def test_a_name_that_was_set_counts_for_all_files(
    name: str, card_name: str | None, names: list[str]
) -> None:
    own = {} if card_name is None else {"model_name": card_name}
    cards = [CARDS[0], CARDS[1] | own]
    assert backends.backend_names(cards, "small.gguf", name) == names


def test_what_a_card_says_goes_before_what_was_measured_and_that_before_the_role() -> None:
    tuned = {uuid: {"settings": {"kv_type": "q4_0"}} for uuid in ("GPU-1", "GPU-2")}
    assert backends.backend_kv_types(CARDS, "small.gguf", tuned, "q8_0") == [
        ["small.gguf", "q4_0"],
        ["large.gguf", "f16"],
    ]
    assert backends.backend_kv_types(CARDS[:1], "small.gguf", {}, "q8_0")[0][1] == "q8_0"


def test_a_prompt_cache_holds_what_its_ram_does() -> None:
    kinds = [["small.gguf", "q8_0"], ["large.gguf", "f16"]]
    asked = [
        {"item": ["small.gguf", "q8_0"], "stdout": "65536"},
        {"item": ["large.gguf", "f16"], "stdout": "131072"},
    ]
    assert backends.cached_tokens(kinds, CARDS, asked, 128) == [2048, 0]
    # A model of which it cannot be told, and a number that the proxy would not take.
    asked[0]["stdout"] = ""
    assert backends.cached_tokens(kinds, CARDS, asked, 128)[0] == 0
    asked[0]["stdout"] = "1"
    assert backends.cached_tokens(kinds, CARDS, asked, 128)[0] == backends.MOST_TOKENS


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
    assert backends.start_timeout_s(timeouts, 1) == 120 + 691 + 351
    assert backends.start_timeout_s(timeouts, 2) == 120 + 345 + 351


DEFAULTS: dict[str, Any] = {
    "n_gpu_layers": 33,
    "n_ctx": 4096,
    "slots": 2,
    "cache_ram_mib": 100,
    "memory_max_mib": 0,
    "load_mode": "none",
}


@pytest.mark.parametrize(
    ("changes", "host_mib", "limit"),
    [
        ({}, 64 * 1024, (64 * 1024 - 1024) // 2),  # its share is more than it needs
        ({}, 4096, 1356 + 339 + 256),  # 256 + 4000 / 4 + 100, and a reserve
        ({"load_mode": "mmap"}, 8192, 4356 + 1089 + 256),
        ({"n_gpu_layers": 0}, 8192, 5380 + 1345 + 256),  # weights and KV as well
        ({"n_gpu_layers": 0}, 4096, 4096 - 512),  # no more than the host has
        ({"memory_max_mib": "900"}, 4096, 900),
    ],
)
def test_memory_is_limited_to_what_is_needed_or_the_share_of_the_host(
    changes: dict[str, Any], host_mib: int, limit: int
) -> None:
    cards = [{"uuid": "GPU-1"}, {"uuid": "GPU-2"}]
    limits = backends.memory_limits_mib([4000, 4000], cards, DEFAULTS | changes, host_mib)
    assert limits == [limit, limit]
    # A card's own value goes before the role's.
    cards[1]["memory_max_mib"] = "1234"
    limits = backends.memory_limits_mib([4000, 4000], cards, DEFAULTS | changes, host_mib)
    assert limits == [limit, 1234]
