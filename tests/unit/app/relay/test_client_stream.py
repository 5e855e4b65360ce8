"""The client's one stream, as far as it needs no backend."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import cast

import pytest
from heartcode.api.dialect import Dialect
from heartcode.client import Client
from heartcode.relay.backend_stream import BackendStream
from heartcode.relay.client_stream import ClientStream
from heartcode.relay.retry import RetryBudget


class Faulty:
    """Stands for a stream in whose handling this program has a fault."""

    reads_prompt = True
    last_heard = 0.0
    usage = None

    def __init__(self) -> None:
        self._events = [b"data: 1\n\n"]

    def read(self) -> bytes:
        return self._events.pop()  # the second time there is none


def test_a_fault_of_the_proxy_s_own_is_told_to_the_client_and_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = ClientStream(
        cast("BackendStream", Faulty()),
        budget=RetryBudget(lambda _: None, max_moves=0),
        client=Client(),
        ping_interval_s=1,
    )
    with caplog.at_level(logging.ERROR):
        first, last = stream
    assert first == b"data: 1\n\n"
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "internal_error"
    assert stream.outcome == "failed"
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is IndexError


def test_an_error_is_told_as_the_client_looks_for_it() -> None:
    stream = ClientStream(
        cast("BackendStream", Faulty()),
        budget=RetryBudget(lambda _: None, max_moves=0),
        client=Client(),
        ping_interval_s=1,
        error_event=partial(Dialect.of("/v1/messages").error_event, request_id="mine"),
    )
    *_, last = stream
    name, data = last.decode().removesuffix("\n\n").split("\n")
    assert name == "event: error"
    assert json.loads(data.removeprefix("data: ")) == {
        "type": "error",
        "error": {
            "type": "api_error",
            "message": "the proxy failed",
            "details": {"error_code": "internal_error", "param": None},
        },
        "request_id": "mine",
    }
