from __future__ import annotations

from tests.fuzz.conftest import gateway, rig

__all__ = ["gateway", "rig"]
