"""Who has to take in what a rig served with before, and who stands in meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter import backend_units, generations

ENV = "/etc/heartcode/llama/{}.env"
UNITS = "/etc/systemd/system"
PLACES = {"env": "/etc/heartcode/llama", "units": UNITS, "run": "/run/llama"}
FILES = [
    ENV.format(0),
    ENV.format(1),
    "/etc/heartcode/heartcode.env",
    *(f"{UNITS}/heartcode{part}" for part in (".service", ".socket", "-exporter.service")),
]


def generation(*paths: str, files: list[str] | None = None) -> dict[str, Any]:
    return {"paths": list(paths), "files": files or FILES, "tree": "/kept/abc"}


def test_each_backend_gets_what_was_kept_of_it() -> None:
    kept = generation()
    first, second = backend_units.units_kept(generations.backends(kept), PLACES, kept["tree"])
    assert first["name"] == "heartcode-llama@0.service"
    assert first["files"][0] == {"path": ENV.format(0), "source": "/kept/abc" + ENV.format(0)}
    assert first["files"][1]["restarts"] is False
    assert second["excused_by"] == "/run/llama/1.quarantined"


def test_backends_that_have_come_since_are_stopped() -> None:
    stopped = backend_units.surplus_units(
        generations.surplus(generation(ENV.format(1), ENV.format(2)))
    )
    assert {unit["name"] for unit in stopped} == {
        "heartcode-llama@2.service",
        "heartcode-revive@2.path",
        "heartcode-card@2.timer",
    }


@pytest.mark.parametrize(
    ("paths", "told"),
    [
        ([ENV.format(0)], []),
        (
            ["/etc/heartcode/heartcode.env"],
            [("heartcode.service", "reloaded"), ("heartcode-exporter.service", "restarted")],
        ),
        (
            ["/opt/heartcode/app/current", f"{UNITS}/heartcode.service"],
            [("heartcode.service", "restarted"), ("heartcode-exporter.service", "restarted")],
        ),
        ([f"{UNITS}/heartcode.socket.d/listen.conf"], [("heartcode.socket", "restarted")]),
        ([f"{UNITS}/heartcode-exporter.service"], [("heartcode-exporter.service", "restarted")]),
        # It was not there: there is nothing to be started.
        (["/etc/heartcode/gpu-tune.json"], []),
    ],
)
def test_services_take_in_what_is_theirs(paths: list[str], told: list[tuple[str, str]]) -> None:
    units = generations.services(generation(*paths))
    assert [(unit["name"], unit["state"]) for unit in units] == told


def answer(rig: str, *models: str, ready: bool = True) -> dict[str, Any]:
    listed = '{"data": [%s]}' % ", ".join(f'{{"id": "{model}"}}' for model in models)  # noqa: UP031
    return {
        "item": rig,
        "answers": {"health": {"rc": 0 if ready else 22}, "models": {"rc": 0, "stdout": listed}},
    }


def test_a_rig_that_is_ready_and_has_all_models_stands_in() -> None:
    answers = [
        answer("rig1", "a", "b"),
        answer("rig2", "a"),
        answer("rig3", "c", "b", "a"),
        answer("rig4", "a", "b", ready=False),
        {"item": "rig5", "unreachable": True},
    ]
    assert generations.stands_in(answers, "rig1") == ["rig3"]
    assert generations.stands_in(answers[:2], "rig1") == []
    assert generations.stands_in(answers[:2], "rig2") == ["rig1"]


@pytest.mark.parametrize(
    ("now", "before", "stopped"),
    [
        (["a", "b"], ["a", "b"], []),
        # Single cards become the groups that they were, and groups the single cards.
        (["a", "b", "c", "d"], ["a+b", "c+d"], [1, 2, 3]),
        (["a+b", "c+d"], ["a", "b", "c", "d"], [0, 1]),
        (["b", "a"], ["a", "b"], [0, 1]),
        # One that is replaced gets nobody's.
        (["a+x"], ["a+b"], []),
    ],
)
def test_what_has_another_one_s_card_is_stopped_first(
    now: list[str], before: list[str], stopped: list[int]
) -> None:
    def lines(cards: list[str]) -> dict[str, list[str]]:
        text = "/some/where/llama/{}.env:HEARTCODE_GPU_UUID={}"
        return {"stdout_lines": [text.format(*one) for one in enumerate(cards)]}

    units = generations.moved({"now": lines(now), "before": lines(before)})
    assert units == [
        {"name": f"heartcode-llama@{number}.service", "state": "stopped"} for number in stopped
    ]
