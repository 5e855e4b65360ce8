"""Errors in the shape of the API that was asked, so that every client library understands them.

Whatever serves a request may raise an `ApiError`; it becomes the answer, in OpenAI's shape or, for
Anthropic's messages, in Anthropic's:

    raise ApiError(400, "the body is not a JSON object", code="invalid_json")
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

# "true" or "false": the openai and anthropic packages obey it and else ask again after any 5xx, so
# that a fault of the request would be computed three times.
SHOULD_RETRY_HEADER = "X-Should-Retry"
NOT_AGAIN = {SHOULD_RETRY_HEADER: "false"}

# https://docs.claude.com/en/api/errors; types/shared/error_type.py in the anthropic package 2.14.
# There "overloaded" is a 529; 503 stays here, as the gateway goes by it.
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


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
        """Return OpenAI's JSON body: `{"error": {"message", "type", "param", "code"}}`."""
        return {
            "error": {
                "message": self.message,
                "type": "invalid_request_error" if self._is_the_client_s else "server_error",
                "param": self.param,
                "code": self.code,
            }
        }

    def anthropic_body(self, request_id: str) -> dict[str, Any]:
        """Return Anthropic's: `{"type": "error", "error": {"type", "message"}, "request_id"}`.

        `error.details.error_code` is this error's code.
        """
        otherwise = "invalid_request_error" if self._is_the_client_s else "api_error"
        return {
            "type": "error",
            "error": {
                "type": _ANTHROPIC_TYPES.get(self.status, otherwise),
                "message": self.message,
                "details": {"error_code": self.code, "param": self.param},
            },
            "request_id": request_id,
        }

    @property
    def _is_the_client_s(self) -> bool:
        return self.status < HTTPStatus.INTERNAL_SERVER_ERROR
