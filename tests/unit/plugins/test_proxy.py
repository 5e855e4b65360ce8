"""What the proxy is told of its backends."""

from typing import Any

import pytest

from plugins.filter.proxy import backends, models


def test_each_card_is_a_backend() -> None:
    cards: list[dict[str, Any]] = [
        {"uuid": "GPU-1", "slots": 2},
        {"uuid": "GPU-2", "slots": 3},
        {"uuid": "GPU-3", "slots": 2},
    ]
    tuned: dict[str, dict[str, Any]] = {
        "GPU-1": {"speeds": {"prompt": 300.5, "decode": 30}},
        "GPU-2": {"settings": {}},
        "GPU-9": {"speeds": {"prompt": 1}},
    }
    found = backends(cards, 8081, tuned)
    assert [backend["url"] for backend in found] == [
        "http://127.0.0.1:8081",
        "http://127.0.0.1:8082",
        "http://127.0.0.1:8083",
    ]
    assert [backend["uuid"] for backend in found] == ["GPU-1", "GPU-2", "GPU-3"]
    assert [backend["slots"] for backend in found] == [2, 3, 2]
    assert [backend["prompt_speed"] for backend in found] == [300.5, 0, 0]
    assert [backend["decode_speed"] for backend in found] == [30, 0, 0]
    assert backends([], 8081, {}) == []


@pytest.mark.parametrize(
    ("names", "told"),
    [(["a"], ["a"]), (["a", "a"], ["a"]), (["a", "b", "a"], ["a", "b", "a"]), ([], [])],
)
def test_one_name_is_told_once(names: list[str], told: list[str]) -> None:
    assert models(names) == told
