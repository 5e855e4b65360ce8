from __future__ import annotations

import pytest
from heartcode.upstream.props import Props


def test_version_and_modalities() -> None:
    told = b'{"build_info": "b11312-0c1e57098", "modalities": {"vision": true, "audio": false}}'
    assert Props.of(told) == Props(
        build="b11312-0c1e57098", modalities={"vision": True, "audio": False}
    )


@pytest.mark.parametrize(
    "told", [b"{}", b'{"build_info": "", "modalities": null}', b'{"modalities": {"vision": 1}}']
)
def test_what_is_not_told_is_not_known(told: bytes) -> None:
    assert Props.of(told) == Props(build=None, modalities={})


@pytest.mark.parametrize("told", [b"", b"[]", b"{", b"\xff"])
def test_what_is_no_llama_server(told: bytes) -> None:
    assert Props.of(told) is None
