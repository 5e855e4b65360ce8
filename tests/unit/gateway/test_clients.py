"""How gateway.js knows a client by its key, and what it tells one that it does not know."""

import json
from collections.abc import Callable
from typing import Any

import pytest

Call = Callable[..., Any]

ANNA, BEA, CORA = "anna-" * 5, "beas-" * 5, "cora-" * 5


def request(headers: dict[str, str], **variables: str) -> dict[str, Any]:
    return {"headersIn": headers, "variables": variables}


def bearer(key: str) -> dict[str, Any]:
    return request({"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"Authorization": f"Bearer {ANNA}"}, "anna"),
        ({"Authorization": f"bearer   {ANNA}"}, "anna"),
        ({"X-Api-Key": BEA}, "bea"),
        ({"Authorization": "Bearer", "X-Api-Key": BEA}, "bea"),
        ({"Authorization": "Basic YW5uYTp4", "X-Api-Key": BEA}, "bea"),
        ({"Authorization": f"Bearer {ANNA}", "X-Api-Key": BEA}, "anna"),
        ({}, ""),
        ({"Authorization": ""}, ""),
        ({"Authorization": "Bearer"}, ""),
        ({"Authorization": "Bearer "}, ""),
        ({"Authorization": ANNA}, ""),
        ({"Authorization": f"Bearer {CORA}"}, ""),
        ({"Authorization": f"Bearer {ANNA}x"}, ""),
        ({"Authorization": f"Bearer {ANNA[:-1]}"}, ""),
        ({"Authorization": f"Bearer {ANNA} {ANNA}"}, ""),
        ({"Authorization": f"Bearer {ANNA}\x00"}, ""),
        ({"Authorization": "Bearer ключ\u0007\ud7ff"}, ""),
        ({"Authorization": "Bearer __proto__"}, ""),
        ({"Authorization": "Bearer " + "x" * 8000}, ""),
        ({"X-Api-Key": f"{BEA}, {BEA}"}, ""),
        ({"X-Api-Key": "constructor"}, ""),
    ],
)
def test_a_client_is_known_by_its_key(call: Call, headers: dict[str, str], name: str) -> None:
    assert call("clientName", request(headers)) == name


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("", "An API key is needed"),
        ("wrong", "This API key is not valid here."),
        (CORA, "This API key expired on 2026-01-31."),
    ],
)
def test_a_refusal_says_why_and_repeats_no_key(call: Call, key: str, told: str) -> None:
    text = call("refusal", bearer(key))
    error = json.loads(text)["error"]
    assert error["message"].startswith(told)
    assert (error["code"], error["type"]) == ("invalid_api_key", "invalid_request_error")
    assert not key or key not in text


@pytest.mark.parametrize(
    ("key", "conn_status", "told", "seconds"),
    [
        (ANNA, "PASSED", "may make 7 requests per minute", "9"),
        (ANNA, "REJECTED", "2 requests with this API key are being worked on", "5"),
        ("wrong", "", "too many requests without a valid API key", "2"),
        (CORA, "", "too many requests without a valid API key", "2"),
    ],
)
def test_who_reaches_a_limit_is_told_which(
    call: Call, key: str, conn_status: str, told: str, seconds: str
) -> None:
    asked = request({"X-Api-Key": key}, limit_conn_status=conn_status)
    error = json.loads(call("excess", asked))["error"]
    assert told in error["message"]
    assert f"in {seconds} s" in error["message"]
    assert error["code"] == "rate_limit_exceeded"
    assert call("retryAfter", asked) == seconds
