"""The simulated NVML as tests use it: built, and in the environment of a program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

DIRECTORY = Path(__file__).parent
NVIDIA_SMI = DIRECTORY / "nvidia_smi.py"
CARDS = DIRECTORY / "cards.py"


def build(out: Path = DIRECTORY / "build", *, flags: str = "-O2") -> Path:
    """Build what is not up to date; return the library's path."""
    subprocess.run(
        ["make", "--silent", "-C", DIRECTORY, f"OUT={out}", f"CFLAGS={flags}"],
        check=True,
        # As in a shell: not as a part of the `make` that may have started the tests.
        env={name: text for name, text in os.environ.items() if name not in _MAKE},
    )
    return out / "libnvidia-ml.so.1"


_MAKE = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}


def environment(state: Path, library: Path | None = None) -> dict[str, str]:
    """Return the environment in which a program finds the cards of a file and not real ones."""
    directory = (library or build()).parent
    return os.environ | {"LD_LIBRARY_PATH": str(directory), "SIMULATED_GPUS": str(state)}
