"""Whether the rig is being emptied."""

from __future__ import annotations

import os
from pathlib import Path

from heartcode.errors import ApiError


class Draining:
    """The sign that the rig is being emptied.

    It is a file, so that it can be set twice and outlives a restart of the proxy.
    """

    def __init__(self, run_dir: Path) -> None:
        self._sign = str(run_dir / "draining")

    @property
    def is_on(self) -> bool:
        """Whether the sign is there."""
        return os.path.exists(self._sign)  # noqa: PTH110 - a Path costs ten times that

    def refuse_new(self) -> None:
        """Raise the 503 that answers everything new while the rig is being emptied."""
        if self.is_on:
            raise ApiError(503, "this rig is draining", code="draining")
