"""What becomes of an exception: an error in the shape of the API that was asked."""

from __future__ import annotations

from http import HTTPStatus
from traceback import format_tb

from flask import Flask, Response, g, jsonify, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import HTTPException

from heartcode.api.dialect import Dialect
from heartcode.client import CLIENT_GONE_STATUS, ClientGoneError
from heartcode.errors import NOT_AGAIN, ApiError

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    500: "internal_error",
}
# The code once more, where the gateway can read it: it sees statuses and headers, but no bodies.
_CODE_HEADER = "X-HeartCode-Error"


def init_app(app: Flask) -> None:
    """Let `app` answer every error in the shape of the API that was asked, its own and Flask's."""

    @app.errorhandler(ApiError)
    def api_error(error: ApiError) -> Response:
        g.record.error = error
        response = response_of(error)
        response.headers[_CODE_HEADER] = error.code
        return response

    @app.after_request
    def what_is_not_there_will_not_be(response: Response) -> Response:
        if response.status_code == HTTPStatus.NOT_IMPLEMENTED:
            response.headers.update(NOT_AGAIN)
        return response

    @app.errorhandler(ClientGoneError)
    def client_gone(_: ClientGoneError) -> Response:
        return Response(status=CLIENT_GONE_STATUS)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
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


def response_of(error: ApiError) -> Response:
    """Return the answer that tells `error` to the client of this request."""
    response = jsonify(Dialect.of(request.path).error_body(error, g.record.id))
    response.status_code = error.status
    response.headers.update(error.headers)
    return response
