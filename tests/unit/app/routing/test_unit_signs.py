from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from heartcode.routing.unit_signs import UnitSigns

STOPPING = Path(__file__).parents[4] / "systemd/libexec/heartcode-llama-stopping"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    directory = tmp_path / "llama"
    directory.mkdir()
    return directory


def stop(directory: Path, **variables: str) -> None:
    """Do what systemd does before it stops backend 1, or after that has ended."""
    env = {"RUNTIME_DIRECTORY": str(directory), "HEARTCODE_BACKEND": "1"}
    path = os.environ["PATH"]
    subprocess.run([str(STOPPING)], env={"PATH": path, **env, **variables}, check=True)


def test_a_process_that_lives_and_is_stopped(llama: Path, tmp_path: Path) -> None:
    signs = UnitSigns(tmp_path, 1)
    assert not signs.was_stopped(within_s=3600)
    stop(llama, MAINPID=str(os.getpid()), SERVICE_RESULT="success")
    assert signs.was_stopped(within_s=0)
    assert not UnitSigns(tmp_path, 0).was_stopped(within_s=3600)


def test_a_stop_counts_for_what_had_begun_before(llama: Path, tmp_path: Path) -> None:
    signs = UnitSigns(tmp_path, 1)
    (llama / "1.stopped").write_text(f"{time.clock_gettime(time.CLOCK_BOOTTIME) - 60:.2f}\n")
    assert signs.was_stopped(within_s=61)
    # What has begun since is the next process's, and its end is a death.
    assert not signs.was_stopped(within_s=58)


@pytest.mark.parametrize(
    "variables",
    [
        # The kernel has killed it for want of memory: systemd may ask for the stop of the rest.
        {"MAINPID": str(os.getpid()), "SERVICE_RESULT": "oom-kill"},
        # It has ended by itself, with status 0.
        {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"},
        {"MAINPID": "0", "SERVICE_RESULT": "signal"},
        {"MAINPID": str(2**22 + 1), "SERVICE_RESULT": "success"},  # above any process id
        {},
    ],
)
def test_a_process_that_ends_by_itself_leaves_no_sign(
    llama: Path, tmp_path: Path, variables: dict[str, str]
) -> None:
    stop(llama, **variables)
    assert list(llama.iterdir()) == []
    assert not UnitSigns(tmp_path, 1).was_stopped(within_s=3600)


def test_nonsense_is_no_sign(llama: Path, tmp_path: Path) -> None:
    for text in ("", "now", "\0"):
        (llama / "1.stopped").write_text(text)
        assert not UnitSigns(tmp_path, 1).was_stopped(within_s=3600)


def test_each_process_has_another_number(llama: Path, tmp_path: Path) -> None:
    signs = UnitSigns(tmp_path, 1)
    assert signs.process() == 0
    waiting = llama / "1.waiting"
    waiting.write_text("12\n")
    first = signs.process()
    os.utime(waiting, ns=(1, first + 1))
    assert 0 < first < signs.process()
