"""heartcode-gpu-devices, which makes the cards' device files, and the simulated nvidia-modprobe."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.nvml import nvidia_modprobe

PROGRAM = Path(__file__).parents[2] / "systemd/libexec/heartcode-gpu-devices"
# As nv-procfs.c writes it, tabs and all.
INFORMATION = "Model: \t\t P106-100\nBus Location: \t 0000:0{0}:00.0\nDevice Minor: \t {0}\n"


def told(tmp_path: Path, *, status: int = 0) -> tuple[int, list[str]]:
    """Return the exit status and what nvidia-modprobe was told, line by line."""
    program = tmp_path / "bin/nvidia-modprobe"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/told\nexit {status}\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    done = subprocess.run([PROGRAM, tmp_path / "proc"], env=environment, check=False)
    return done.returncode, (tmp_path / "told").read_text().splitlines()


def test_each_card_gets_the_file_of_its_own_number(tmp_path: Path) -> None:
    for minor in (0, 3, 11):
        card = tmp_path / f"proc/gpus/0000:0{minor}:00.0"
        card.mkdir(parents=True)
        (card / "information").write_text(INFORMATION.format(minor))
    status, lines = told(tmp_path)
    assert status == 0
    first, cards, unified = lines
    # The module is loaded before the cards are looked for.
    assert first == "-c 255"
    assert sorted(cards.split(" -c ")) == ["-c 0", "11", "3"]
    assert unified == "-u -c 0"


def test_without_a_card_there_are_the_driver_s_files(tmp_path: Path) -> None:
    card = tmp_path / "proc/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t Unknown\n")
    assert told(tmp_path) == (0, ["-c 255", "-u -c 0"])


def test_a_module_that_does_not_load_fails(tmp_path: Path) -> None:
    assert told(tmp_path, status=1) == (1, ["-c 255"])


def test_without_nvidia_modprobe_there_is_nothing_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", PROGRAM],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "there is no nvidia-modprobe" in done.stdout


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ([], []),
        (["-u"], []),
        (["-c", "255"], ["nvidiactl"]),
        (["-c", "0", "-c", "3"], ["nvidia0", "nvidia3"]),
        (["-u", "-c", "0"], ["nvidia-uvm", "nvidia-uvm-tools"]),
    ],
    ids=" ".join,
)
def test_only_files_that_are_asked_for_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], files: list[str]
) -> None:
    """As NVIDIA's own does it, by its source and manual."""
    monkeypatch.setattr(nvidia_modprobe, "DEV", tmp_path)
    monkeypatch.setattr(nvidia_modprobe, "may_make_devices", lambda: True)
    monkeypatch.setattr("sys.argv", ["nvidia-modprobe", *options])
    assert nvidia_modprobe.main() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_a_sandbox_that_may_make_no_devices_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvidia_modprobe, "DEV", tmp_path)
    monkeypatch.setattr(nvidia_modprobe, "may_make_devices", lambda: False)
    monkeypatch.setattr("sys.argv", ["nvidia-modprobe", "-c", "255"])
    assert nvidia_modprobe.main() == 1
    assert list(tmp_path.iterdir()) == []
