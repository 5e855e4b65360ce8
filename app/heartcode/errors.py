"""Errors in OpenAI's shape, so that every client library understands them.

Whatever serves a request may raise an `ApiError`; it becomes the answer:

    raise ApiError(400, "the body is not a JSON object", code="invalid_json")
"""

from __future__ import annotations

from collections.abc import Mapping
from traceback import format_tb
from typing import Any

from flask import Flask, Response, jsonify
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    500: "internal_error",
}
_FIRST_SERVER_ERROR = 500
# The code once more, where the gateway can read it: it sees statuses and headers, but no bodies.
_CODE_HEADER = "X-HeartCode-Error"


class ApiError(Exception):
    """An answer that is an error: HTTP status, message, OpenAI's `code`, further headers.

    `param` is the field of the request that is to blame, if it is one.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return the JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        client_is_at_fault = self.status < _FIRST_SERVER_ERROR
        return {
            "error": {
                "message": self.message,
                "type": "invalid_request_error" if client_is_at_fault else "server_error",
                "param": self.param,
                "code": self.code,
            }
        }


def init_app(app: Flask) -> None:
    """Let `app` answer every error in OpenAI's shape, its own and Flask's."""

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> Response:
        response = jsonify(error.body())
        response.status_code = error.status
        response.headers.update(error.headers)
        response.headers[_CODE_HEADER] = error.code
        return response

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or _FIRST_SERVER_ERROR
        code = _CODES.get(status, error.name.lower().replace(" ", "_"))
        response = api_error(ApiError(status, error.description or error.name, code=code))
        allow = error.get_response().headers.get("Allow")  # a 405 has to say what is allowed
        if allow:
            response.headers["Allow"] = allow
        return response

    @app.errorhandler(ParseException)
    def improper_chunks(_error: Exception) -> Response:
        # gunicorn reads a chunked body no earlier than the body is asked for.
        message = "the body is not in proper chunks"
        return api_error(ApiError(400, message, code="bad_request"))

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        # Type and place alone: the message of an exception may quote the request.
        place = "".join(format_tb(error.__traceback__))
        app.logger.error("unexpected %s\n%s", type(error).__name__, place)
        return api_error(ApiError(500, "the proxy failed", code="internal_error"))
