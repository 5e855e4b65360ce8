"""Errors that the gateway tells itself have the shapes of those that the rigs' proxy tells."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from heartcode.errors import ApiError

from roles.gateway.filter_plugins.errors import body

Call = Callable[..., Any]
STATUSES = [400, 401, 403, 404, 405, 413, 414, 429, 431, 500, 501, 502, 503, 504, 505]


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_of_gateway_js(call: Call, status: int, dialect: str) -> None:
    request = {"variables": {"heartcode_dialect": dialect, "heartcode_request_id": "mine"}}
    told = json.loads(call("errorText", request, status, "some_code", "no", "model"))
    error = ApiError(status, "no", code="some_code", param="model")
    assert told == (error.anthropic_body("mine") if dialect == "anthropic" else error.body())


@pytest.mark.parametrize("status", STATUSES)
def test_of_nginx(status: int) -> None:
    error = {"status": status, "code": "some_code", "message": "no"}
    expected = ApiError(status, "no", code="some_code")
    assert json.loads(body(error, "openai")) == expected.body()
    assert json.loads(body(error, "anthropic")) == expected.anthropic_body("$heartcode_request_id")


def test_a_message_for_nginx_may_have_quotes() -> None:
    error = {"status": 400, "code": "c", "message": """it's a "word" """}
    for_nginx = body(error, "openai")
    assert "it\\'s" in for_nginx
    unquoted = for_nginx.replace("\\'", "'").replace("\\\\", "\\")
    assert json.loads(unquoted)["error"]["message"] == error["message"]
