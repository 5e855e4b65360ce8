"""A real hub and CDN on this machine, with a real model on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from heartcode_models.demo.counting import write_model

from tests.model_hub import ModelHub

REPOSITORY = "people/Counting-GGUF"
NAME = "Counting-Q4_K_M.gguf"
CATALOGUE = f"""
[counting]
title = "The model that counts"
repository = "{REPOSITORY}"
revision = "main"
file = "Counting-{{quantisation}}.gguf"
quantisations = ["Q4_K_M", "Q6_K"]
licence = "mit"
context = 4096
template = "None is needed."
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "counting.gguf"
    write_model(path)
    return path.read_bytes()


@pytest.fixture
def hub(model: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    # This machine's own proxy knows no way to a hub on it, and its token is nobody's business here.
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with ModelHub({f"{REPOSITORY}/{NAME}": model}) as hub:
        yield hub


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.toml"
    path.write_text(CATALOGUE)
    return path
