"""A backup is restored as it was made, or not at all."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[3] / "roles/backup/files/manifest.py"


@pytest.fixture(scope="module")
def manifest() -> ModuleType:
    spec = importlib.util.spec_from_file_location("manifest", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def backup(tmp_path: Path, manifest: ModuleType) -> Path:
    (tmp_path / "rig1").mkdir()
    (tmp_path / "rig1/files.tar").write_bytes(b"packed")
    (tmp_path / "gateway.key").write_text("hc-key")
    manifest.write(tmp_path)
    return tmp_path


def test_what_was_written_is_whole_and_for_its_owner_alone(
    backup: Path, manifest: ModuleType
) -> None:
    assert manifest.faults(backup) == []
    modes = {path.name: path.stat().st_mode & 0o777 for path in backup.rglob("*")}
    assert modes == {
        "rig1": 0o700,
        **dict.fromkeys(("files.tar", "gateway.key", "manifest.json"), 0o600),
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: (path / "gateway.key").write_text("another"), "another gateway.key"),
        (lambda path: (path / "rig1/files.tar").unlink(), "lacks rig1/files.tar"),
        (lambda path: (path / "rig2.tar").touch(), "rig2.tar besides"),
        (lambda path: (path / "manifest.json").unlink(), "did not come to its end"),
        (lambda path: (path / "manifest.json").write_text("[]"), "cannot be read"),
        (lambda path: (path / "manifest.json").write_text("{"), "cannot be read"),
        (
            lambda path: (path / "manifest.json").write_text('{"format": 9, "files": {}}'),
            "another format",
        ),
    ],
)
def test_what_is_not_as_it_was_is_told(
    backup: Path, manifest: ModuleType, change: object, told: str
) -> None:
    assert callable(change)
    change(backup)
    (said,) = manifest.faults(backup)
    assert told in said


def test_a_directory_that_is_none_is_told(tmp_path: Path, manifest: ModuleType) -> None:
    assert "no manifest.json" in manifest.faults(tmp_path / "nothing")[0]
