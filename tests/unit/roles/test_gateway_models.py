"""Which rigs serve a model, and how much of it."""

from typing import Any

import pytest

from roles.gateway.filter_plugins.models import models


def rig(address: str, *served: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"address": address, "models": list(served), **fields}


def card(*names: str, slots: int = 1, **fields: Any) -> dict[str, Any]:
    return {"names": list(names), "slots": slots, **fields}


def weights(*rigs: dict[str, Any]) -> dict[str, Any]:
    (model,) = models(rigs)
    return {address: pytest.approx(weight) for address, weight in model["rigs"].items()}


def test_each_model_has_its_rigs_in_the_inventory_s_order() -> None:
    assert models([rig("one", card("a", "first"), card("b")), rig("two", card("a"))]) == [
        {
            "id": "a",
            "aliases": ["first"],
            "group": "heartcode_model_0",
            "rigs": {"one": 1, "two": 1},
        },
        {"id": "b", "aliases": [], "group": "heartcode_model_1", "rigs": {"one": 1}},
    ]


def test_slots_of_all_cards_count() -> None:
    assert weights(rig("one", card("a", slots=2), card("a")), rig("two", card("a"))) == {
        "one": 3,
        "two": 1,
    }


def test_a_card_counts_as_much_as_it_is_faster_than_the_mean() -> None:
    fast = card("a", slots=2, tokens_per_second=30.0)
    slow = card("a", slots=2, tokens_per_second=10.0)
    assert weights(rig("one", fast, slow), rig("two", slow, slow)) == {
        "one": 2 * 30 / 15 + 2 * 10 / 15,
        "two": 2 * 2 * 10 / 15,
    }


def test_a_card_that_was_not_measured_is_a_usual_one() -> None:
    fast = card("a", tokens_per_second=30.0)
    slow = card("a", tokens_per_second=10.0)
    unknown = card("a", tokens_per_second=0)
    assert weights(rig("one", fast), rig("two", slow), rig("three", unknown)) == {
        "one": 1.5,
        "two": 0.5,
        "three": 1,
    }


def test_speeds_of_other_models_do_not_matter() -> None:
    big, small = card("a", tokens_per_second=10.0), card("b", tokens_per_second=90.0)
    one, two = models([rig("one", big), rig("two", small)])
    assert (one["rigs"], two["rigs"]) == ({"one": 1}, {"two": 1})


def test_a_rig_s_own_speed_corrects() -> None:
    assert weights(rig("one", card("a", slots=2), speed=1.5), rig("two", card("a", slots=2))) == {
        "one": 3,
        "two": 2,
    }
