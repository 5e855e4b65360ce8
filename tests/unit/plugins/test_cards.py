"""What a rig's cards are and take, beside what the inventory says of them."""

from typing import Any

import pytest

from plugins.filter.cards import (
    backend_cards,
    card_modes,
    expected_capabilities,
    nvidia_smi_cards,
    refused_power_limits,
    strange_power_limits,
    unexpected_cards,
)

CARDS: list[dict[str, Any]] = [{"uuid": "GPU-1"}, {"uuid": "GPU-2"}]
SEEN = [
    {"uuid": "GPU-1", "least_w": "60.00", "most_w": "140.00", "name": "NVIDIA P106-100"},
    {"uuid": "GPU-2", "least_w": "[N/A]", "most_w": "[N/A]", "name": "P104-100"},
]


def test_cards_are_told_from_complaints() -> None:
    lines = [
        "GPU-1, 6.1, 550.163.01, NVIDIA P106-100",
        "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost.",
        "GPU-2, 6.1",  # cut off
    ]
    assert nvidia_smi_cards(lines, ["uuid", "capability", "driver", "name"]) == [
        {"uuid": "GPU-1", "capability": "6.1", "driver": "550.163.01", "name": "NVIDIA P106-100"}
    ]


def test_what_another_host_lends_is_not_this_rig_s_to_set() -> None:
    led = [{"uuid": "GPU-8@rig2+GPU-9@rig2+GPU-1", "power_limit_w": 90}]
    assert backend_cards(led) == ["GPU-1"]
    assert card_modes(led, "") == {"GPU-1": {"power_limit_w": 90.0}}


def test_a_card_may_be_of_its_own_kind_else_of_the_rig_s() -> None:
    own = {"GPU-2": 75}
    assert expected_capabilities(CARDS, own, [61, "70"]) == {"GPU-1": ["61", "70"], "GPU-2": ["75"]}


def test_a_card_of_another_kind_is_named() -> None:
    seen = [
        {"uuid": uuid, "capability": "6.1", "name": "NVIDIA P106-100"}
        for uuid in ("GPU-1", "GPU-2", "GPU-3")  # one that the inventory does not name
    ]
    # One may not be there at all.
    expected = {"GPU-1": ["61"], "GPU-2": ["75", "86"], "GPU-4": ["75"]}
    assert unexpected_cards(expected, seen) == [
        "GPU-2 (NVIDIA P106-100) has compute capability 6.1, expected 75 or 86"
    ]


@pytest.mark.parametrize("limit", [1, "90", 59.5, "59.5", "stock", "", 1000])
def test_a_power_limit_is_watts_or_stock_or_left_open(limit: Any) -> None:
    assert strange_power_limits([{"uuid": "GPU-1", "power_limit_w": limit}], limit, {}) == []


@pytest.mark.parametrize("limit", [0, -1, 1001, "low", "90W", "1e2", True, None, "٩٠"])
def test_what_else_it_may_not_be_is_named_with_what_sets_it(limit: Any) -> None:
    cards = [{"uuid": "GPU-1", "power_limit_w": limit}, {"uuid": "GPU-2"}]
    assert strange_power_limits(cards, limit, {"P106-100": limit, "P104-100": 90}) == [
        f"{name} is '{limit}'" for name in ("gpu_tune_power_limit_w", "P106-100", "GPU-1")
    ]


def test_a_card_s_limit_goes_before_the_host_s() -> None:
    cards = [*CARDS, {"uuid": "GPU-3", "power_limit_w": "stock"}]
    assert card_modes(cards, "90") == {
        "GPU-1": {"power_limit_w": 90.0},
        "GPU-2": {"power_limit_w": 90.0},
        "GPU-3": {"power_limit_w": "stock"},
    }
    # The model's counts, which is not known here.
    assert card_modes([{"uuid": "GPU-1", "power_limit_w": ""}], 90) == {"GPU-1": {}}
    assert card_modes(CARDS, "") == {"GPU-1": {}, "GPU-2": {}}


@pytest.mark.parametrize(
    ("own", "of_the_host", "of_models", "limit", "variable"),
    [
        ({"power_limit_w": 150}, 90, {}, 150, "power_limit_w beside its UUID"),
        ({}, 59.5, {}, 59.5, "gpu_tune_power_limit_w"),
        ({}, "", {"P106-100": 300}, 300, "gpu_tune_model_power_limits_w"),
        ({"power_limit_w": ""}, 59.5, {"P106-100": 300}, 300, "gpu_tune_model_power_limits_w"),
    ],
)
def test_a_limit_out_of_range_is_named_with_what_sets_it(
    own: dict[str, Any], of_the_host: Any, of_models: dict[str, Any], limit: float, variable: str
) -> None:
    # The second card does not tell its range.
    cards = [CARDS[0] | own, CARDS[1] | own]
    (said,) = refused_power_limits(cards, of_the_host, of_models, SEEN)
    assert said.startswith(
        f"a power limit of {limit} W is out of range for GPU-1, which takes 60.00 to 140.00 W."
        f" Change {variable}"
    )


@pytest.mark.parametrize("limit", [60, "140", "stock", ""])
def test_a_limit_within_range_is_taken(limit: Any) -> None:
    assert refused_power_limits(CARDS, limit, {}, SEEN) == []
    assert refused_power_limits(CARDS, "", {"P106-100": limit}, SEEN) == []


def test_a_card_that_is_not_there_is_passed_over() -> None:
    assert refused_power_limits(CARDS, 5000, {}, []) == []


def test_what_is_said_of_a_group_is_said_of_each_of_its_cards() -> None:
    backends: list[dict[str, Any]] = [
        {"uuid": "GPU-2+GPU-1", "power_limit_w": 150},
        {"uuid": "GPU-3"},
    ]
    assert backend_cards(backends) == ["GPU-2", "GPU-1", "GPU-3"]
    assert expected_capabilities(backends, {"GPU-1": 75}, [61]) == {
        "GPU-2": ["61"],
        "GPU-1": ["75"],
        "GPU-3": ["61"],
    }
    assert card_modes(backends, "") == {
        "GPU-2": {"power_limit_w": 150.0},
        "GPU-1": {"power_limit_w": 150.0},
        "GPU-3": {},
    }
    (said,) = refused_power_limits(backends, "", {}, SEEN)
    assert "150 W is out of range for GPU-1" in said
