from __future__ import annotations

import json
from typing import Any, cast

import pytest
from heartcode.relay.buffered import WholeAnswer
from heartcode.relay.faulty_request import blamed


class Read:
    """An answer that has been read."""

    is_json = True

    def __init__(self, status: int, message: Any) -> None:
        self.status = status
        error = {"code": status, "message": message, "type": "server_error"}
        self.body = json.dumps({"error": error}).encode()


def told(status: int, message: Any) -> tuple[int, dict[str, Any]]:
    answer = blamed(cast("WholeAnswer", Read(status, message)))
    return answer.status, json.loads(answer.body)["error"]


@pytest.mark.parametrize(
    "message",
    [
        "[json.exception.type_error.302] type must be number, but is array",
        "[json.exception.out_of_range.406] number overflow",
        "vector::_M_range_check: __n (which is 9) >= this->size() (which is 3)",
        "basic_string::substr: __pos (which is 9) > this->size() (which is 3)",
        "stoi",
        'Failed to parse tools: Expected \'tools\' to be an array, got ""; tools = ""',
    ],
)
def test_what_llama_server_s_libraries_throw_at_a_request_is_its_fault(message: str) -> None:
    status, error = told(500, message)
    assert status == 400
    assert error == {"code": 400, "message": message, "type": "invalid_request_error"}


@pytest.mark.parametrize(
    "message", ["Compute error.", "Failed to parse input at pos 5", "stop", None, 7]
)
def test_other_failures_stay_what_they_are(message: Any) -> None:
    assert told(500, message)[0] == 500


def test_other_statuses_stay() -> None:
    assert told(501, "[json.exception.type_error.302]")[0] == 501


def test_what_is_no_json_stays() -> None:
    answer = Read(500, "stoi")
    answer.body = b"<html>"
    assert blamed(cast("WholeAnswer", answer)).status == 500
