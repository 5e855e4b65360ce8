"""Puts the proxy together."""

from __future__ import annotations

from flask import Flask

from heartcode.api import access_log, context, error_handlers, middleware
from heartcode.api.endpoints import fleet, health, inference, models, status
from heartcode.api.flask_app import Proxy
from heartcode.runtime.runtime import Runtime
from heartcode.settings import Settings


def create_app(settings: Settings) -> Flask:
    """Return the proxy as a WSGI application."""
    app = Proxy("heartcode", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    context.init_app(app, Runtime.from_settings(settings))
    access_log.init_app(app)
    error_handlers.init_app(app)
    middleware.init_app(app)
    for endpoints in (inference, models, status, fleet, health):
        app.register_blueprint(endpoints.bp)
    return app
