from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from heartcode.errors import ApiError
from werkzeug.test import TestResponse

CHAT = "/v1/chat/completions"


def error_of(answer: TestResponse) -> dict[str, Any]:
    """Return the error, which has to have OpenAI's shape."""
    assert answer.is_json
    assert list(answer.get_json()) == ["error"]
    error: dict[str, Any] = answer.get_json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    expected = "invalid_request_error" if answer.status_code < 500 else "server_error"
    assert error["type"] == expected
    return error


@pytest.mark.parametrize("path", ["/", "/v1/nothing", "/v1/chat/completions/", "/static/x"])
def test_unknown_paths(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "not_found"


@pytest.mark.parametrize("path", ["/v1//models", "/v1///models", "/v1//models//x"])
def test_doubled_slashes_count_as_one(client: FlaskClient, path: str) -> None:
    assert error_of(client.get(path))["code"] == "backend_unavailable"


def test_an_error_may_have_headers(app: Flask) -> None:
    @app.get("/full")
    def full() -> str:
        raise ApiError(429, "full", code="queue_full", headers={"Retry-After": "7"})

    answer = app.test_client().get("/full")
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")
    assert error_of(answer)["code"] == "queue_full"
    assert answer.headers["X-HeartCode-Error"] == "queue_full"


def test_a_wrong_method_is_told_the_right_one(client: FlaskClient) -> None:
    answer = client.get(CHAT)
    assert answer.status_code == 405
    assert error_of(answer)["code"] == "method_not_allowed"
    assert "POST" in answer.headers["Allow"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"text"', b"null", b"\xff\xfe", b"[" * 2000, b'{"n": ' + b"9" * 2000],
    ids=repr,
)
def test_a_body_that_is_no_json_object(client: FlaskClient, body: bytes) -> None:
    answer = client.post(CHAT, data=body)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == "invalid_json"


def test_too_large_a_body(client: FlaskClient) -> None:
    answer = client.post(CHAT, data=b" " * 2049)
    assert answer.status_code == 413
    assert error_of(answer)["code"] == "request_too_large"


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_no_backend(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 503
    assert error_of(answer)["code"] == "backend_unavailable"


def test_draining(client: FlaskClient, tmp_path: Path) -> None:
    (tmp_path / "draining").touch()
    for answer in (client.get("/health"), client.post(CHAT, json={})):
        assert answer.status_code == 503
        assert error_of(answer)["code"] == "draining"


MESSAGES = "/v1/messages"
ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    501: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def anthropic_error_of(answer: TestResponse) -> dict[str, Any]:
    """Return the error, which has to have Anthropic's shape, with the code in its details."""
    told = answer.get_json()
    assert list(told) == ["error", "request_id", "type"]
    assert told["type"] == "error"
    assert told["request_id"] == answer.headers["Request-Id"] == answer.headers["X-Request-Id"]
    error: dict[str, Any] = told["error"]
    assert set(error) == {"type", "message", "details"}
    assert error["message"]
    assert error["type"] == ANTHROPIC[answer.status_code]
    return error


@pytest.mark.parametrize("status", ANTHROPIC)
@pytest.mark.parametrize("path", [MESSAGES, f"{MESSAGES}/count_tokens"])
def test_anthropic_s_clients_get_their_own_shape(app: Flask, path: str, status: int) -> None:
    """Whatever fails, also before an endpoint is reached."""

    @app.before_request
    def fail() -> None:
        raise ApiError(status, "no", code="some_code", param="model")

    error = anthropic_error_of(app.test_client().post(path, json={}))
    assert error["message"] == "no"
    assert error["details"] == {"error_code": "some_code", "param": "model"}


@pytest.mark.parametrize(
    ("method", "path", "data", "code"),
    [
        ("GET", MESSAGES, b"", "method_not_allowed"),
        ("POST", f"{MESSAGES}/batches", b"{}", "not_found"),
        ("POST", "/v1//messages", b"{", "invalid_json"),
        ("POST", MESSAGES, b" " * 2049, "request_too_large"),
        ("POST", MESSAGES, b'{"messages": [{"content": "x"}]}', "missing_required_parameter"),
        ("POST", f"{MESSAGES}/count_tokens", b"{}", "missing_required_parameter"),
        (
            "POST",
            MESSAGES,
            b'{"messages": [{"role": "user", "content": "x"}]}',
            "backend_unavailable",
        ),
    ],
)
def test_what_fails_on_the_way_to_anthropic_s_messages(
    client: FlaskClient, method: str, path: str, data: bytes, code: str
) -> None:
    answer = client.open(path, method=method, data=data)
    assert anthropic_error_of(answer)["details"]["error_code"] == code


@pytest.mark.parametrize("path", ["/v1/messagesx", "/messages", CHAT])
def test_all_other_paths_are_openai_s(client: FlaskClient, path: str) -> None:
    answer = client.post(path, data=b"{")
    error_of(answer)
    assert "Request-Id" not in answer.headers


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_nobody_asks_again_for_what_is_not_there(app: Flask, path: str) -> None:
    statuses = [501, 500]

    @app.before_request
    def fail() -> None:
        raise ApiError(statuses[0], "no", code="some_code")

    assert app.test_client().post(path, json={}).headers["X-Should-Retry"] == "false"
    statuses.pop(0)
    assert "X-Should-Retry" not in app.test_client().post(path, json={}).headers


def test_a_bug_is_not_told_to_the_client_nor_its_words_to_the_log(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    prompt = " ".join(["words", "of", "a", "prompt"])

    def fail() -> str:
        raise RuntimeError(prompt)

    app.add_url_rule("/bug", view_func=fail)
    answer = app.test_client().get("/bug")
    assert answer.status_code == 500
    assert error_of(answer)["code"] == "internal_error"
    assert "unexpected RuntimeError" in caplog.text
    assert "in fail" in caplog.text
    assert prompt not in caplog.text + answer.text
