"""Errors in OpenAI's shape, so that every client library understands them.

Whatever serves a request may raise an `ApiError`; it becomes the answer:

    raise ApiError(400, "the body is not a JSON object", code="invalid_json")
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any


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
        client_is_at_fault = self.status < HTTPStatus.INTERNAL_SERVER_ERROR
        return {
            "error": {
                "message": self.message,
                "type": "invalid_request_error" if client_is_at_fault else "server_error",
                "param": self.param,
                "code": self.code,
            }
        }
