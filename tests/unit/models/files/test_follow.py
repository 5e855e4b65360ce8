"""What a person reads of a download that takes hours."""

from collections.abc import Callable
from pathlib import Path

import pytest
from heartcode_models.files.follow import follow
from heartcode_models.files.part import part_path

NAME, SHA256, SIZE = "Counting-Q4_K_M.gguf", "a" * 64, 4_900_000_000


class Download:
    """A download as it lies on a disk, where time passes by pauses alone.

    The parts are sparse files: sizes without bytes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.result = directory, directory / "job"
        self.part = part_path(directory / NAME, SHA256)
        self.now = 0.0
        self.meanwhile: Callable[[float], None] = lambda _now: None
        self.result.write_text('{"started": 1, "finished": 0, "ansible_job_id": "j1.2"}')

    def has(self, size: int) -> None:
        with self.part.open("ab") as file:
            file.truncate(size)

    def ends(self) -> None:
        self.result.write_text('{"changed": true, "rc": 0}')

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile(self.now)

    def told(self, seconds: float = 30) -> str:
        question = {
            "directory": str(self.directory),
            "file": NAME,
            "size": SIZE,
            "sha256": SHA256,
            "result": str(self.result),
            "seconds": seconds,
        }
        return follow(question, clock=lambda: self.now, pause=self.pause)


@pytest.fixture
def download(tmp_path: Path) -> Download:
    return Download(tmp_path)


@pytest.mark.parametrize(
    ("per_second", "told"),
    [
        (100_000_000, "4.0 GB of 4.9 GB, 100.0 MB/s, less than a minute to go"),
        (10_000_000, "1.3 GB of 4.9 GB, 10.0 MB/s, about 6 min to go"),
        (100_000, "1.0 GB of 4.9 GB, 100 kB/s, about 10.8 h to go"),
    ],
)
def test_it_is_told_how_long_it_will_take(download: Download, per_second: int, told: str) -> None:
    download.has(1_000_000_000)
    download.meanwhile = lambda now: download.has(1_000_000_000 + round(now * per_second))
    assert download.told(seconds=30) == told


def test_a_line_that_is_silent_is_told(download: Download) -> None:
    download.has(1_000_000_000)
    assert download.told(seconds=30) == "1.0 GB of 4.9 GB, and nothing more for 30 s"


def test_what_has_not_begun_is_told(download: Download) -> None:
    assert download.told() == "nothing has come yet"


def test_what_is_whole_is_verified_next(download: Download) -> None:
    download.has(SIZE)
    assert download.told() == "4.9 GB of 4.9 GB, being verified"


def test_it_ends_with_the_job(download: Download) -> None:
    download.has(1_000_000_000)

    def end(now: float) -> None:
        if now >= 3:
            download.part.rename(download.directory / NAME)
            download.ends()

    download.meanwhile = end
    assert download.told(seconds=30) == "4.9 GB are there"
    assert download.now == pytest.approx(3, abs=0.3)
