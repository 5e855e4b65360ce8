"""What the gateway makes of its rigs' answers about their cards."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from heartcode.api.endpoints.fleet import rows

Call = Callable[..., Any]

CARD = {
    "number": 0,
    "backend": "127.0.0.1:8081",
    "model": "a model",
    "state": "up",
    "slots": 2,
    "busy": 1,
    "version": "b11312-0c1e57098",
}
TOLD = {
    "name": "what the rig calls itself",
    "version": "0.1.0",
    "state": "degraded",
    "backends": [CARD],
}


def test_a_rig_that_tells_is_shown_under_the_gateway_s_name(call: Call) -> None:
    shown = call("rigOf", "rig1", 200, json.dumps({"rigs": [TOLD]}))
    assert shown == TOLD | {"name": "rig1"}


def test_a_rig_with_an_older_proxy(call: Call) -> None:
    older = {name: value for name, value in TOLD.items() if name != "version"}
    shown = call("rigOf", "rig1", 200, json.dumps({"rigs": [older]}))
    assert shown == TOLD | {"name": "rig1", "version": "-"}


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (502, '{"error": {}}', "unreachable"),
        (504, "", "unreachable"),
        (404, '{"error": {}}', "unknown"),
        (500, "", "unknown"),
        (200, "", "unknown"),
        (200, "<html>", "unknown"),
        (200, "[]", "unknown"),
        (200, '{"rigs": []}', "unknown"),
        (200, '{"rigs": [{"state": "up"}]}', "unknown"),
    ],
)
def test_a_rig_that_does_not(call: Call, status: int, body: str, state: str) -> None:
    assert call("rigOf", "rig1", status, body) == {
        "name": "rig1",
        "version": "-",
        "state": state,
        "backends": [],
    }


def test_lines_are_those_of_the_rigs_proxy(call: Call) -> None:
    rigs: list[dict[str, Any]] = [
        {**TOLD, "name": "rig1", "backends": [CARD, CARD | {"number": 1, "busy": 0}]},
        {"name": "rig2", "version": "-", "state": "unreachable", "backends": []},
        {"name": "rig3", "state": "up", "backends": [{"number": 0}]},
    ]
    assert call("rows", rigs) == "".join(rows(rigs))
    assert call("rows", rigs[1:2]) == "rig2\tunreachable\t-\t-\t-\t-\t-\t-\n"
