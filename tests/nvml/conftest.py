from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests.nvml.cards import Rig, p104, p106
from tests.nvml.simulated import build


@pytest.fixture(scope="session")
def library() -> Path:
    """The library that pynvml finds in this process: one of that name is loaded already."""
    given = os.environ.get("SIMULATED_NVML")
    path = Path(given) if given else build()
    ctypes.CDLL(str(path))
    return path


@pytest.fixture
def state(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    assert library.exists()
    path = tmp_path / "gpus.json"
    monkeypatch.setenv("SIMULATED_GPUS", str(path))
    return path


@pytest.fixture
def rig(state: Path) -> Iterator[Rig]:
    """A mixed rig, with NVML at work: a P106-100, a P104-100 and a P104-100 of 4 GB."""
    made = Rig([p106(), p104(), p104(vram_mib=4096)]).save(state)
    pynvml.nvmlInit()
    yield made
    pynvml.nvmlShutdown()
