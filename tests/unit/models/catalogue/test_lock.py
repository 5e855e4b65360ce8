"""Pins: what a file was once is what it must be ever after."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from heartcode_models.catalogue.entries import HubFile
from heartcode_models.catalogue.lock import LOCK, LockFile, Pin
from heartcode_models.errors import ModelError

FILE = HubFile(repository="people/Model", revision="main", path="model.gguf")
PIN = Pin(asked="main", commit="a" * 40, sha256="b" * 64, size=7)


def test_the_shipped_one_can_be_read() -> None:
    assert LockFile(LOCK).get(FILE) is None


def test_a_pin_is_kept(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock.json")
    assert lock.get(FILE) is None
    assert lock.put(FILE, PIN)
    assert LockFile(lock.path).get(FILE) == PIN
    assert not lock.put(FILE, PIN), "nothing has changed"


def test_the_file_reads_well_in_a_diff(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock.json")
    lock.put(replace(FILE, path="z.gguf"), PIN)
    before = lock.path.read_text().splitlines()
    lock.put(replace(FILE, path="a.gguf"), PIN)
    after = lock.path.read_text().splitlines()
    assert [line for line in before if line not in after] == []
    assert list(json.loads("\n".join(after))["files"]) == [
        "people/Model/a.gguf",
        "people/Model/z.gguf",
    ]


def test_pins_that_are_written_together_are_all_kept(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock.json")
    files = [replace(FILE, path=f"{number}.gguf") for number in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda file: lock.put(file, PIN), files))
    assert [lock.get(file) for file in files] == [PIN] * 20


def test_another_revision_in_the_catalogue_must_be_pinned_on_purpose(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock.json")
    lock.put(FILE, PIN)
    with pytest.raises(ModelError, match=r"from the revision 'main'.* names 'v2'.*--update"):
        lock.get(replace(FILE, revision="v2"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<<<<<<< HEAD", "is no JSON"),
        ("[]", "is not of version 1"),
        ('{"version": 2, "files": {}}', "is not of version 1"),
        ('{"version": 1}', "has no table 'files'"),
        ('{"version": 1, "files": {"people/Model/model.gguf": {}}}', "has no usable pin"),
        ('{"version": 1, "files": {"people/Model/model.gguf": 1}}', "has no usable pin"),
        (
            json.dumps(
                {"version": 1, "files": {"people/Model/model.gguf": PIN.__dict__ | {"size": 0}}}
            ),
            "has no usable pin",
        ),
        (
            json.dumps(
                {"version": 1, "files": {"people/Model/model.gguf": PIN.__dict__ | {"sha256": 1}}}
            ),
            "has no usable pin",
        ),
    ],
)
def test_a_broken_one_is_not_taken_for_an_empty_one(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "lock.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=f"{message}.*restore it from version control"):
        LockFile(path).get(FILE)
