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
}
TOLD = {"name": "what the rig calls itself", "state": "degraded", "backends": [CARD]}


def test_a_rig_that_tells_is_shown_under_the_gateway_s_name(call: Call) -> None:
    shown = call("rigOf", "rig1", 200, json.dumps({"rigs": [TOLD]}))
    assert shown == TOLD | {"name": "rig1"}


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
    assert call("rigOf", "rig1", status, body) == {"name": "rig1", "state": state, "backends": []}


def test_lines_are_those_of_the_rigs_proxy(call: Call) -> None:
    rigs: list[dict[str, Any]] = [
        {"name": "rig1", "state": "up", "backends": [CARD, CARD | {"number": 1, "busy": 0}]},
        {"name": "rig2", "state": "unreachable", "backends": []},
    ]
    assert call("rows", rigs) == "".join(rows(rigs))
    assert call("rows", rigs[1:]) == "rig2\tunreachable\t-\t-\t-\t-\t-\t-\n"
