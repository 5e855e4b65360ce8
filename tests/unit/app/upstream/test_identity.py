"""What is made of a llama-server's words; tests/integration/test_identity.py asks a real one."""

from __future__ import annotations

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
