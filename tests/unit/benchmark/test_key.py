"""The API key that benchmark.py is given, and what is around it in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from heartcode_benchmark import cli

KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    "content",
    [KEY.encode(), f"{KEY}\r\nsecond line\n".encode(), f"\ufeff {KEY} \n".encode()],
    ids=["bare", "lines", "mark"],
)
def test_a_file_of_any_editor(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    assert cli._key(file) == KEY


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "has no key in its first line"),
        (b"\xef\xbb\xbf\n", "has no key in its first line"),
        (KEY.encode("utf-16"), "is no UTF-8 text; save it as such"),
        (f"{KEY}\u200b\n".encode(), "has characters that no API key has"),
        (f"{KEY}\0\n".encode(), "has characters that no API key has"),
    ],
    ids=["empty", "mark", "utf-16", "invisible", "NUL"],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as raised:
        cli._key(file)
    assert str(file) in str(raised.value)
    assert KEY not in str(raised.value)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTCODE_API_KEY", f"\ufeff{KEY}\n")
    assert cli._key(None) == KEY
    monkeypatch.setenv("HEARTCODE_API_KEY", f"{KEY}é")
    with pytest.raises(ValueError, match="HEARTCODE_API_KEY: the key has characters"):
        cli._key(None)
