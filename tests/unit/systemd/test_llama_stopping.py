"""heartcode-llama-stopping: the sign that it leaves, and what it waits for."""

import os
import subprocess
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[3] / "systemd/libexec/heartcode-llama-stopping"


def stop(tmp_path: Path) -> subprocess.Popen[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "RUNTIME_DIRECTORY": str(tmp_path),
        "HEARTCODE_BACKEND": "3",
        "SERVICE_RESULT": "success",
        "MAINPID": str(os.getpid()),
    }
    return subprocess.Popen([PROGRAM], env=environment, text=True)


def test_it_waits_for_nothing_where_nothing_is_to_be_saved(tmp_path: Path) -> None:
    assert stop(tmp_path).wait(30) == 0
    assert float((tmp_path / "3.stopped").read_text()) > 0


def test_it_ends_when_all_is_saved(tmp_path: Path) -> None:
    unsaved = tmp_path / "3.unsaved"
    unsaved.touch()
    stopping = stop(tmp_path)
    while not (tmp_path / "3.stopped").exists():
        assert stopping.poll() is None
    unsaved.unlink()
    assert stopping.wait(30) == 0


@pytest.mark.ci
def test_it_does_not_wait_for_ever(tmp_path: Path) -> None:
    (tmp_path / "3.unsaved").touch()
    assert stop(tmp_path).wait(60) == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "3.stopped"]
