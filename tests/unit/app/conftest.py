from __future__ import annotations

from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from heartcode.api.app import create_app
from heartcode.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Nothing listens on port 1, so every backend refuses, and nobody watches them."""
    return Settings.from_env(
        {
            "HEARTCODE_BACKENDS": "http://127.0.0.1:1,http://127.0.0.2:1",
            "HEARTCODE_RUN_DIR": str(tmp_path),
            "HEARTCODE_LEARNT_DIR": str(tmp_path / "learnt"),
            "HEARTCODE_MAX_BODY_BYTES": "2048",
            "HEARTCODE_STATUS_TIMEOUT_S": "0.1",
        }
    )


@pytest.fixture
def app(settings: Settings) -> Flask:
    return create_app(settings)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
