from __future__ import annotations

import gc
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from heartcode.api.access_log import Record
from heartcode.api.app import create_app
from heartcode.routing.request_info import RequestInfo
from heartcode.settings import Settings
from heartcode.telemetry import metrics

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "Hi"}]}


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [json.loads(r.message) for r in caplog.records if r.name == "heartcode.request"]


@pytest.fixture(autouse=True)
def log_at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="heartcode.request")


def test_one_line_for_a_request_without_its_words(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"messages": [{"role": "user", "content": "a secret"}], "stream": True}
    client.post(
        f"{CHAT}?q=secret",
        json=body,
        headers={"X-Request-Id": "mine", "X-HeartCode-Client": "anna"},
    ).close()
    (line,) = lines(caplog)
    duration = line.pop("duration_s")
    assert 0 <= duration < 60
    assert line == {
        "event": "request",
        "id": "mine",
        "method": "POST",
        "endpoint": CHAT,
        "status": 503,
        "outcome": "failed",
        "client": "anna",
        "model": "",
        "stream": True,
        "queue_s": 0,
        "backend": None,
        "retries": None,
        "resumes": None,
        "first_token_s": None,
        "prompt_tokens": None,
        "cached_tokens": None,
        "restored_tokens": None,
        "tokens": None,
    }
    assert "secret" not in caplog.text


def test_made_up_paths_are_no_labels(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    client.get("/made/up").close()
    (line,) = lines(caplog)
    assert (line["endpoint"], line["status"], line["outcome"]) == ("none", 404, "rejected")


def test_checks_that_pass_are_not_logged(
    client: FlaskClient, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    client.get("/livez").close()
    assert lines(caplog) == []
    (tmp_path / "draining").touch()
    client.get("/health").close()
    assert [line["status"] for line in lines(caplog)] == [503]


@pytest.mark.parametrize("offered", ["abc", "A-z_0.9:" * 16])
def test_a_request_id_that_can_be_used_comes_back(client: FlaskClient, offered: str) -> None:
    answer = client.get("/livez", headers={"X-Request-Id": offered})
    assert answer.headers["X-Request-Id"] == offered


@pytest.mark.parametrize("offered", ["", "a b", 'a"b', "é", "a" * 129, "{}"])
def test_any_other_request_id_is_replaced(client: FlaskClient, offered: str) -> None:
    answers = [client.get("/livez", headers={"X-Request-Id": offered}) for _ in range(2)]
    first, second = (answer.headers["X-Request-Id"] for answer in answers)
    assert offered not in (first, second)
    assert len(first) == 32
    assert first != second


def requests_of(client: str) -> float:
    (family,) = metrics.CLIENT_REQUESTS.collect()
    return sum(
        sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["client"] == client
    )


def test_requests_are_counted_by_the_client_s_name(client: FlaskClient) -> None:
    before = requests_of("dora")
    client.post(CHAT, json={"messages": []}, headers={"X-HeartCode-Client": "dora"}).close()
    client.post(CHAT, json=HELLO, headers={"X-HeartCode-Client": "dora"}).close()
    assert requests_of("dora") == before + 1


def turned_away() -> dict[str, float]:
    (family,) = metrics.REQUESTS.collect()
    return {
        sample.labels["status"]: sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["outcome"] == "turned_away"
    }


def test_what_goes_to_another_rig_is_nobody_s_failure(
    settings: Settings, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Neither the client's, who hears nothing of it, nor this rig's."""
    app = create_app(replace(settings, queue_length=0))
    client = app.test_client()
    for _ in range(2):  # each backend's one slot
        app.extensions["heartcode"].pool.take(info=RequestInfo.of(HELLO, "other"))
    before, of_emil = turned_away(), requests_of("emil")
    for header in ("slot", "queue", ""):
        headers = {"X-HeartCode-Client": "emil", "X-HeartCode-Try": header}
        client.post(CHAT, json=HELLO, headers={k: v for k, v in headers.items() if v}).close()
    (tmp_path / "draining").touch()
    client.post(CHAT, json=HELLO, headers={"X-HeartCode-Client": "emil"}).close()
    told = [(line["status"], line["outcome"]) for line in lines(caplog)]
    assert told == [
        *[(403, "turned_away")] * 2,
        (429, "rejected"),
        (503, "turned_away"),
    ]
    after = turned_away()
    assert {status: after[status] - before.get(status, 0) for status in after} == {
        "403": 2,
        "503": 1,
    }
    assert requests_of("emil") == of_emil + 1


def active_requests() -> float:
    (family,) = metrics.ACTIVE.collect()
    (sample,) = family.samples
    return sample.value


def test_active_requests_are_given_back(client: FlaskClient) -> None:
    before = active_requests()
    for body in (b"{", b"{}"):
        client.post(CHAT, data=body).close()
    assert active_requests() == before


def test_a_request_that_is_over_is_gone(client: FlaskClient) -> None:
    """Without the garbage collector, which would look through all others as well."""
    gc.collect()
    gc.disable()
    try:
        client.get("/livez").close()
        assert [each.endpoint for each in gc.get_objects() if isinstance(each, Record)] == []
    finally:
        gc.enable()
