"""Where this machine keeps what it may lose: images, packages, downloads and notes on files."""

import os
from collections.abc import Mapping
from pathlib import Path


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Return HEARTCODE_CACHE_DIR, or the directory of ours among the person's caches."""
    if own := environment.get("HEARTCODE_CACHE_DIR"):
        return Path(own).absolute()
    base = environment.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base).absolute() / "heartcode"
