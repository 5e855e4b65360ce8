"""These tests boot machines: they need root and the fleet tool's Debian packages."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Let `pytest -m fleet` choose them and `-m 'not fleet'` leave them out."""
    config.addinivalue_line("markers", "fleet: boots virtual machines (root, about a minute)")
