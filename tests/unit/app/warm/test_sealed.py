from __future__ import annotations

from pathlib import Path

import pytest
from heartcode.warm import sealed
from heartcode.warm.sealed import SealError


def test_what_was_written_is_read_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    sealed.write(path, {"a": [1.5, "é"]})
    sealed.write(path, {"a": [2.5]})
    assert sealed.read(path) == {"a": [2.5]}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_every_cut_and_every_changed_byte_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    sealed.write(path, {"a": 1})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place])
        with pytest.raises(SealError):
            sealed.read(path)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(SealError):
            sealed.read(path)
    path.write_bytes(whole + b"\n")
    with pytest.raises(SealError):
        sealed.read(path)


def test_another_key_or_another_files_line_is_none(tmp_path: Path) -> None:
    path, other = tmp_path / "one.json", tmp_path / "other.json"
    sealed.write(path, 1, key=b"key")
    assert sealed.read(path, key=b"key") == 1
    with pytest.raises(SealError):
        sealed.read(path)
    path.rename(other)
    with pytest.raises(SealError):
        sealed.read(other, key=b"key")


def test_what_was_broken_off_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "one.json.part").write_text("half")
    sealed.write(tmp_path / "one.json", 1)
    assert sealed.read(tmp_path / "one.json") == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.json"
    sealed.write(path, 1)

    def is_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", is_full)
    with pytest.raises(OSError, match="No space"):
        sealed.write(path, 2)
    assert sealed.read(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_nesting_beyond_measure_under_a_true_seal_is_none(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    for line in (b"[" * 100_000, b"\xff", b""):
        path.write_bytes(line + b"\n" + sealed._seal(path, line, b"") + b"\n")
        with pytest.raises(SealError, match="no JSON"):
            sealed.read(path)
