"""How an endpoint finds what it works with."""

from __future__ import annotations

from flask import Flask, current_app

from heartcode.runtime.runtime import Runtime

_EXTENSION = "heartcode"


def init_app(app: Flask, runtime: Runtime) -> None:
    """Let the endpoints of `app` find the runtime."""
    app.extensions[_EXTENSION] = runtime


def current_runtime() -> Runtime:
    """Return the runtime of the app that serves this request."""
    runtime: Runtime = current_app.extensions[_EXTENSION]
    return runtime
