"""Asking all backends, and asking them sparingly; the answers come from stand-ins."""

from __future__ import annotations

import json
from collections.abc import Iterator

import gevent
import pytest
from heartcode.errors import ApiError
from heartcode.relay import ask_all
from heartcode.relay.ask_all import SparingQuestion
from heartcode.routing.backend import Backend

from tests.integration.misbehaving import Connection, Request, Upstream, be_loading


def number(connection: Connection, _: Request) -> None:
    connection.answer("200 OK", b"[1]")


def refuse(connection: Connection, _: Request) -> None:
    error = {"error": {"code": 501, "message": "no slots here", "type": "not_supported_error"}}
    connection.answer("501 Not Implemented", json.dumps(error).encode())


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(number) as upstream:
        yield upstream


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_refusal_counts_where_nobody_answers(upstream: Upstream) -> None:
    with Upstream(refuse) as other, Upstream(be_loading) as loading:
        one, two, three = (Backend(each.url) for each in (upstream, other, loading))
        assert ask_all.ask([two, one, three], "/slots", timeout_s=10) == [(one, [1])]
        with pytest.raises(ApiError, match="no slots here") as raised:
            ask_all.ask([three, two], "/slots", timeout_s=10)
        assert (raised.value.status, raised.value.code) == (501, "not_supported_error")
        with pytest.raises(ApiError, match="no backend is ready") as none:
            ask_all.ask([three], "/slots", timeout_s=10)
        assert none.value.status == 503


def test_who_asks_often_gets_the_same_answer(upstream: Upstream) -> None:
    clock = Clock()
    question = SparingQuestion("/slots", pause_s=2, clock=clock)
    backend = Backend(upstream.url)
    for _ in range(10):
        assert question.ask([backend], timeout_s=10) == [(backend, [1])]
        clock.now += 0.19
    assert len(upstream.requests) == 1
    clock.now = 102.0
    question.ask([backend], timeout_s=10)
    assert len(upstream.requests) == 2


def test_many_at_a_time_ask_once(upstream: Upstream) -> None:
    question = SparingQuestion("/slots", pause_s=0)
    backend = Backend(upstream.url)
    asking = [gevent.spawn(question.ask, [backend], timeout_s=10) for _ in range(5)]
    assert [each.get() for each in asking] == [[(backend, [1])]] * 5
    assert len(upstream.requests) == 1
