"""How an endpoint finds what it works with."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from flask import Flask, current_app, request

from heartcode.runtime.runtime import Runtime

if TYPE_CHECKING:
    from flask import Request
    from werkzeug.local import LocalProxy

_EXTENSION = "heartcode"


def init_app(app: Flask, runtime: Runtime) -> None:
    """Let the endpoints of `app` find the runtime."""
    app.extensions[_EXTENSION] = runtime


def current_runtime() -> Runtime:
    """Return the runtime of the app that serves this request."""
    runtime: Runtime = current_app.extensions[_EXTENSION]
    return runtime


def in_environ(header: str) -> str:
    """Return what WSGI calls a header; Werkzeug would work it out for each request."""
    return f"HTTP_{header.upper().replace('-', '_')}"


def current_request() -> Request:
    """Return the request that is being served: Flask's `request` looks for it at every use."""
    return cast("LocalProxy[Request]", request)._get_current_object()  # noqa: SLF001 - Werkzeug documents it
