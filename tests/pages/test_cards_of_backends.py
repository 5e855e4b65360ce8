"""What the page /status makes of the series of a backend's cards, without a browser."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "roles/gateway/files/status/status/fleet.js"
DRIVER = """
import {countOf, fleetOf, isBad, titleOf, wordOf} from './fleet.mjs';
const told = JSON.parse(process.argv[2]);
const {cards} = fleetOf({result: told}, {result: []}).rigs[0];
const shown = cards.map((card) => ({title: titleOf(card), word: wordOf(card), ...card}));
console.log(JSON.stringify(
    {all: countOf(cards), bad: countOf(cards.filter(isBad)), cards: shown}));
"""
GROUP, ALONE = {"backend": "127.0.0.1:8081"}, {"backend": "127.0.0.1:8082"}
FIRST = GROUP | {"gpu": "0.0", "uuid": "GPU-a"}
SECOND = GROUP | {"gpu": "0.1", "uuid": "GPU-b"}
THIRD = ALONE | {"gpu": "1", "uuid": "GPU-c"}


def series(metric: str, value: float, labels: dict[str, str], **more: str) -> dict[str, Any]:
    told = {"__name__": metric, "rig": "rig1"} | labels | more
    return {"metric": told, "value": [0, str(value)]}


def of_card(labels: dict[str, str], celsius: float) -> list[dict[str, Any]]:
    return [
        series("gpu_up", 1, labels),
        series("gpu_info", 1, labels, name="NVIDIA P106-100"),
        series("gpu_temperature_celsius", celsius, labels),
        series("gpu_power_watts", 50, labels),
        series("gpu_memory_used_bytes", 3 * celsius, labels),
        series("gpu_memory_total_bytes", 300, labels),
    ]


RIG = [
    series("up", 1, {"job": "heartcode"}),
    *(series("backend_up", 1, backend) for backend in (GROUP, ALONE)),
    *(series("backend_slots", 2, backend) for backend in (GROUP, ALONE)),
]


@pytest.fixture
def shown(tmp_path: Path) -> Any:
    shutil.copy(SCRIPT, tmp_path / "fleet.mjs")
    (tmp_path / "driver.mjs").write_text(DRIVER)

    def show(told: list[dict[str, Any]]) -> Any:
        done = subprocess.run(
            ["node", "driver.mjs", json.dumps(told)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    return show


def test_the_cards_of_a_backend_are_a_row(shown: Any) -> None:
    told = shown([*RIG, *of_card(FIRST, 60), *of_card(SECOND, 70), *of_card(THIRD, 50)])
    group, alone = told["cards"]
    assert (told["all"], told["bad"]) == (3, 0)
    assert (group["title"], group["word"]) == ("cards 0.0 to 0.1", "works")
    assert (group["product"], group["uuid"]) == ("2 × P106-100", "GPU-a+GPU-b")
    assert (group["watts"], group["memory"], group["memoryTotal"]) == (100, 390, 600)
    assert (group["celsius"], group["fullest"]) == (70, 0.7)
    assert (alone["title"], alone["product"], alone["watts"]) == ("card 1", "P106-100", 50)


def test_the_card_that_a_group_misses_is_named(shown: Any) -> None:
    lost = [series("gpu_up", 0, SECOND), series("backend_quarantined", 1, GROUP)]
    told = shown([*RIG, *of_card(FIRST, 60), *lost, *of_card(THIRD, 50)])
    group, alone = told["cards"]
    assert (told["all"], told["bad"]) == (3, 2)
    assert (group["title"], group["state"], group["word"]) == (
        "cards 0.0 to 0.1",
        "gone",
        "0.1 gone",
    )
    assert alone["state"] == "works"
    # A card that is alone needs no name.
    lost = [series("gpu_up", 0, THIRD), series("backend_quarantined", 1, ALONE)]
    told = shown([*RIG, *of_card(FIRST, 60), *of_card(SECOND, 70), *lost])
    assert [card["word"] for card in told["cards"]] == ["works", "gone"]


def test_a_card_that_does_not_answer_any_more_is_its_group_s_trouble(shown: Any) -> None:
    silent = [*of_card(SECOND, 70)[1:], series("gpu_up", 0, SECOND)]
    told = shown([*RIG, *of_card(FIRST, 60), *silent])
    assert [card["state"] for card in told["cards"]] == ["silent", "works"]


def test_a_backend_without_a_card_is_one(shown: Any) -> None:
    told = shown(RIG)
    assert [card["title"] for card in told["cards"]] == ["backend 8081", "backend 8082"]
    assert told["all"] == 2
