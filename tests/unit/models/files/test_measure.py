"""What a mirror is found to have, as metrics."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from heartcode_models.files import place
from heartcode_models.files.role import main
from prometheus_client.parser import text_string_to_metric_families

CONTENT = b"a model, as far as this is concerned"
Values = dict[str, float]


class Mirror:
    """A directory of files and what it must have; `measure` gives the metrics of its one file."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "models" / "a.gguf"
        self.file.parent.mkdir()
        self.file.write_bytes(CONTENT)
        self.manifest = directory / "mirror.json"
        self.metrics = directory / "mirror.prom"
        self.expect(size=len(CONTENT), sha256=hashlib.sha256(CONTENT).hexdigest())

    def expect(self, **wanted: Any) -> None:
        manifest = {
            "directory": str(self.file.parent),
            "notes": str(self.file.parent.parent / "notes"),
            "files": [{"file": self.file.name, **wanted}],
        }
        self.manifest.write_text(json.dumps(manifest))

    def measure(self) -> Values:
        assert main(["measure", str(self.manifest), str(self.metrics)]) == 0
        samples = [
            sample
            for family in text_string_to_metric_families(self.metrics.read_text())
            for sample in family.samples
        ]
        assert {sample.labels["file"] for sample in samples} == {"a.gguf"}
        return {sample.name.removeprefix("model_mirror_file_"): sample.value for sample in samples}


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


def test_a_file_that_is_right(mirror: Mirror) -> None:
    size = len(CONTENT)
    assert mirror.measure() == {"up": 1, "size_bytes": size, "expected_size_bytes": size}
    assert mirror.metrics.stat().st_mode & 0o777 == 0o644
    assert list(mirror.metrics.parent.glob("*.part")) == []


def test_it_is_read_once(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.measure()

    def read(path: Path) -> str:
        pytest.fail(f"{path} is read again")

    monkeypatch.setattr(place, "_read", read)
    assert mirror.measure()["up"] == 1


def test_a_file_that_is_gone(mirror: Mirror) -> None:
    mirror.measure()
    mirror.file.unlink()
    assert mirror.measure() == {"up": 0, "size_bytes": 0, "expected_size_bytes": len(CONTENT)}


def test_a_file_that_was_cut_off(mirror: Mirror) -> None:
    mirror.file.write_bytes(CONTENT[:5])
    assert mirror.measure() == {"up": 0, "size_bytes": 5, "expected_size_bytes": len(CONTENT)}


def test_another_file_of_the_same_size(mirror: Mirror) -> None:
    mirror.measure()
    mirror.file.write_bytes(CONTENT[::-1])
    assert mirror.measure()["up"] == 0


def test_rigs_that_need_another_one(mirror: Mirror) -> None:
    mirror.measure()
    mirror.expect(size=len(CONTENT), sha256="0" * 64)
    assert mirror.measure()["up"] == 0


def test_a_directory_in_its_place_does_not_stop_it(mirror: Mirror) -> None:
    mirror.file.unlink()
    mirror.file.mkdir()
    assert mirror.measure()["up"] == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no manifest of a mirror"),
        ("[]", "is no manifest of a mirror"),
        ('{"directory": "/", "notes": "/", "files": [{}]}', "is no manifest of a mirror"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_without_a_manifest_what_was_measured_stays(
    mirror: Mirror, capsys: pytest.CaptureFixture[str], text: str | None, said: str
) -> None:
    mirror.measure()
    before = mirror.metrics.read_text()
    if text is None:
        mirror.manifest.unlink()
    else:
        mirror.manifest.write_text(text)
    assert main(["measure", str(mirror.manifest), str(mirror.metrics)]) == 3
    assert f"{mirror.manifest}: {said}" in capsys.readouterr().err
    assert mirror.metrics.read_text() == before


def test_metrics_that_cannot_be_written(
    mirror: Mirror, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    there = tmp_path / "nowhere" / "mirror.prom"
    assert main(["measure", str(mirror.manifest), str(there)]) == 3
    assert f"{there}: cannot be written: No such file or directory" in capsys.readouterr().err
