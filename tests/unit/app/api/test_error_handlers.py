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
