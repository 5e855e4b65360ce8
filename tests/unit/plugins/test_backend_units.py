"""What each backend of a rig has on its host."""

from __future__ import annotations

from typing import Any

from plugins.filter import backend_units
from plugins.filter.backend_units import FilterModule

CARDS: list[dict[str, Any]] = [{"uuid": "GPU-a"}, {"uuid": "GPU-b", "slots": 2}]
PLACES = {
    "env": "/etc/llama",
    "wanted": "/etc/llama/wanted",
    "units": "/units",
    "run": "/run/llama",
}


def test_each_backend_is_started_with_its_files() -> None:
    first, second = backend_units.units(CARDS, PLACES)
    assert first == {
        "name": "heartcode-llama@0.service",
        "enabled": True,
        "state": "started",
        "files": [
            {"path": "/etc/llama/0.env", "source": "/etc/llama/wanted/0.env"},
            {
                "path": "/units/heartcode-llama@0.service.d/limits.conf",
                "source": "/etc/llama/wanted/0.limits.conf",
                "restarts": False,
            },
        ],
        "excused_by": "/run/llama/0.quarantined",
    }
    assert second["name"] == "heartcode-llama@1.service"
    assert second["files"][0]["path"] == "/etc/llama/1.env"


def test_a_dry_run_tells_which_would_be_started_anew() -> None:
    changed = ["/etc/llama/wanted/1.env", "/etc/llama/wanted/0.limits.conf"]
    states = [unit["state"] for unit in backend_units.units(CARDS, PLACES, changed)]
    assert states == ["started", "restarted"]


def test_what_is_wanted_is_rendered_for_each_card() -> None:
    files = backend_units.wanted(CARDS, PLACES)
    assert files[:2] == [
        {"path": "/etc/llama", "state": "directory"},
        {"path": "/etc/llama/wanted", "state": "directory"},
    ]
    assert [(file["path"], file.get("template")) for file in files[5:]] == [
        ("/etc/llama/wanted/1.env", "backend.env.j2"),
        ("/etc/llama/wanted/1.limits.conf", "limits.conf.j2"),
        ("/units/heartcode-llama@1.service.d", None),
    ]
    assert files[5]["vars"] == {"index": 1, "item": CARDS[1]}


def test_ports_follow_each_other() -> None:
    assert backend_units.ports([0, 1], 8081)[1] == {
        "port": 8082,
        "variable": "llama_server_base_port",
        "unit": "heartcode-llama@1.service",
    }


def test_a_backend_whose_card_gets_another_number_is_stopped_first() -> None:
    assert backend_units.moved({"0": "GPU-a", "1": "GPU-b"}, CARDS) == []
    # Exchanged, and one behind a card that was taken out; a card that is no more moves nowhere.
    assert [unit["name"] for unit in backend_units.moved({"0": "GPU-b", "1": "GPU-a"}, CARDS)] == [
        "heartcode-llama@0.service",
        "heartcode-llama@1.service",
    ]
    assert backend_units.moved({"0": "GPU-a", "1": "GPU-z", "2": "GPU-b"}, CARDS) == [
        {"name": "heartcode-llama@2.service", "state": "stopped"}
    ]


def test_a_unit_stops_before_one_of_its_cards_gets_another_number() -> None:
    def stopped(deployed: dict[str, str], *cards: str) -> list[str]:
        units = backend_units.moved(deployed, [{"uuid": card} for card in cards])
        return [unit["name"].split("@")[1].split(".")[0] for unit in units]

    alone, groups = {"0": "a", "1": "b", "2": "c", "3": "d"}, {"0": "a+b", "1": "c+d"}
    assert stopped(groups, "a+b", "c+d") == []
    # Single cards become groups, and groups single cards.
    assert stopped(alone, "a+b", "c+d") == ["1", "2", "3"]
    assert stopped(groups, "a", "b", "c", "d") == ["0", "1"]
    # One that gets another order or loses a card keeps its own.
    assert stopped(groups, "b+a", "d") == []


def test_nothing_is_left_of_a_backend_that_is_no_more() -> None:
    units = backend_units.surplus_units(["7"])
    assert [unit["name"] for unit in units] == [
        "heartcode-llama@7.service",
        "heartcode-revive@7.path",
        "heartcode-card@7.timer",
    ]
    assert {unit["state"] for unit in units} == {"stopped"}
    assert units[0]["enabled"] is False
    files = backend_units.surplus_files(["7"], PLACES)
    assert {file["state"] for file in files} == {"absent"}
    assert [file["path"] for file in files] == [
        "/etc/llama/7.env",
        "/etc/llama/wanted/7.env",
        "/etc/llama/wanted/7.limits.conf",
        "/etc/llama/wanted/7.env.begun",
        "/units/heartcode-llama@7.service.d",
        "/run/llama/7.quarantined",
        "/run/llama/7.waiting",
        "/run/llama/7.turn",
        "/run/llama/7.stopped",
        "/run/llama/7.kv",
        "/run/llama/7.unsaved",
    ]
    # All that a backend was given is among what is taken away.
    given = {file["path"] for file in backend_units.wanted([{"uuid": "x"}] * 8, PLACES)}
    assert {path for path in given if "7" in path} <= {file["path"] for file in files}


def test_cards_that_cannot_be_so() -> None:
    cards = [{"uuid": "GPU-a", "slots": 0, "n_ctx": "512"}, {"uuid": "GPU-b", "n_ctx": -1}]
    assert backend_units.below(cards, ["slots", "n_ctx", "n_batch"], 1) == [
        "slots of GPU-a",
        "n_ctx of GPU-b",
    ]


def test_files_are_installed_as_they_are() -> None:
    assert backend_units.copied_from(["a", "b.d/c"], "/src", "/dst", "0755")[1] == {
        "path": "/dst/b.d/c",
        "src": "/src/b.d/c",
        "mode": "0755",
    }


def test_the_filters_have_names() -> None:
    assert FilterModule().filters()["backend_units"] is backend_units.units
