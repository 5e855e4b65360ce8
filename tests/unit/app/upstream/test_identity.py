"""What is made of a llama-server's words; tests/integration/test_identity.py asks a real one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from heartcode.upstream import identity
from heartcode.upstream.exchange import UpstreamRequest
from heartcode.upstream.identity import Identity, identify


def told_by(monkeypatch: pytest.MonkeyPatch, props: dict[str, Any]) -> Identity:
    def answer(_host: str, _port: int, request: UpstreamRequest, _timeout_s: float) -> Any:
        return props if request == identity.PROPS else {}

    monkeypatch.setattr(identity, "_get", answer)
    return identify("127.0.0.1", 1, timeout_s=1)


def test_version_and_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    props = {"build_info": "b11312-0c1e57098", "modalities": {"vision": True, "audio": False}}
    told = told_by(monkeypatch, props)
    assert (told.build, told.modalities) == (
        "b11312-0c1e57098",
        {"vision": True, "audio": False},
    )


@pytest.mark.parametrize(
    "props",
    [{}, {"build_info": 7, "modalities": None}, {"model_path": 1, "modalities": {"vision": 1}}],
    ids=repr,
)
def test_what_is_not_told_is_not_known(
    monkeypatch: pytest.MonkeyPatch, props: dict[str, Any]
) -> None:
    assert told_by(monkeypatch, props) == Identity()


def loaded_from(monkeypatch: pytest.MonkeyPatch, path: Path) -> Identity:
    return told_by(monkeypatch, {"model_path": str(path)})


def test_a_copy_of_a_file_is_the_same_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on another rig: at another place, and written at another time."""
    content = bytes(range(256)) * 20_000
    one, other = tmp_path / "one.gguf", tmp_path / "other.gguf"
    one.write_bytes(content)
    other.write_bytes(content)
    os.utime(other, ns=(1, 1))
    mine, its = loaded_from(monkeypatch, one), loaded_from(monkeypatch, other)
    assert mine.has_weights_of(its)
    assert Identity.from_json(json.loads(json.dumps(mine.as_json()))).has_weights_of(its)


@pytest.mark.parametrize("at", [0, 5_119_999])
def test_another_file_of_the_same_name_and_size_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: int
) -> None:
    file = tmp_path / "model.gguf"
    content = bytearray(bytes(range(256)) * 20_000)
    file.write_bytes(content)
    before = loaded_from(monkeypatch, file)
    content[at] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(2, 2))
    assert not loaded_from(monkeypatch, file).has_weights_of(before)


def test_a_file_that_cannot_be_read_is_known_by_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = loaded_from(monkeypatch, tmp_path / "gone.gguf")
    assert one.samples == ""
    assert one.has_weights_of(one)
    assert not one.has_weights_of(loaded_from(monkeypatch, tmp_path / "another.gguf"))
