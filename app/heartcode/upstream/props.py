"""What a llama-server says of itself in `/props`: its version, and what its model takes in.

It is answered beside the loop that computes and costs that nothing (`server-context.cpp`,
get_props), unlike `/slots`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

PATH = "/props"


@dataclass(frozen=True, kw_only=True)
class Props:
    """What one llama-server says of itself.

    Attributes:
        build: its version, such as "b11312-0c1e57098"; None if it does not tell.
        modalities: whether its model takes "vision", "audio" and "video"; what is not told is not
            in it.
    """

    build: str | None
    modalities: Mapping[str, bool]

    @classmethod
    def of(cls, body: bytes) -> Props | None:
        """Return what the answer says; None if it is not one of a llama-server."""
        try:
            told = json.loads(body)
        except ValueError:
            return None
        if not isinstance(told, dict):
            return None
        build, modalities = told.get("build_info"), told.get("modalities")
        if not isinstance(modalities, dict):
            modalities = {}
        return cls(
            build=build if isinstance(build, str) and build else None,
            modalities={
                kind: is_taken
                for kind, is_taken in modalities.items()
                if isinstance(is_taken, bool)
            },
        )
