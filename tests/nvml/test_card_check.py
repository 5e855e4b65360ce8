"""heartcode-card, which a backend's unit asks before it starts, against the simulated driver."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.nvml.cards import Rig, p104, p106
from tests.nvml.simulated import NVIDIA_SMI, environment

PROGRAM = Path(__file__).parents[2] / "systemd/libexec/heartcode-card"


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig([p106(), p104()]).save(tmp_path / "gpus.json")


def check(rig: Rig, uuid: str, programs: str = "") -> tuple[int, str]:
    """Return the exit status and what is said of this card."""
    status, said = check_all(rig, uuid, programs)
    assert not said or said.startswith(f"{uuid}: ")
    return status, said.removeprefix(f"{uuid}: ")


def check_all(rig: Rig, uuid: str, programs: str = "") -> tuple[int, str]:
    """Return the exit status and what is said, with the card that it is said of."""
    assert rig.path
    directory = rig.path.parent / "bin"
    directory.mkdir(exist_ok=True)
    if not (directory / "nvidia-smi").exists():
        (directory / "nvidia-smi").symlink_to(NVIDIA_SMI)
    env = environment(rig.path)
    env["PATH"] = programs or f"{directory}:{env['PATH']}"
    done = subprocess.run(
        [PROGRAM, uuid], env=env, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def test_a_card_that_answers(rig: Rig) -> None:
    rig.lose(0)  # a neighbour's trouble is not its own
    assert check(rig, rig.cards[1]["uuid"]) == (0, "")


def test_a_card_that_has_no_temperature_is_there(rig: Rig) -> None:
    rig.refuse(1, "temperature")
    assert check(rig, rig.cards[1]["uuid"]) == (0, "")


def test_a_card_that_is_off_the_bus(rig: Rig) -> None:
    rig.lose(1)
    said = "nvidia-smi lists other cards, but not this one"
    assert check(rig, rig.cards[1]["uuid"]) == (1, said)


def test_a_card_that_says_itself_that_it_is_lost(rig: Rig) -> None:
    rig.refuse(1, "temperature", error=15)
    assert check(rig, rig.cards[1]["uuid"]) == (1, "the GPU is lost")


def test_the_only_card_is_gone(rig: Rig) -> None:
    uuid = rig.cards[1]["uuid"]
    rig.remove(1).lose(0)
    assert check(rig, uuid) == (1, "nvidia-smi finds no card")


def test_a_driver_that_is_not_loaded(rig: Rig) -> None:
    status, said = check(rig.fail(), rig.cards[0]["uuid"])
    assert (status, said[:36]) == (2, "nvidia-smi fails with status 9: NVID")


def test_a_host_without_a_driver(rig: Rig) -> None:
    assert rig.path
    empty = rig.path.parent / "empty"
    empty.mkdir()
    (empty / "sh").symlink_to("/bin/sh")
    assert check(rig, rig.cards[0]["uuid"], str(empty)) == (3, "there is no nvidia-smi")


def test_a_group_is_there_when_all_of_its_cards_are(rig: Rig) -> None:
    first, second = (card["uuid"] for card in rig.cards)
    group = f"{second}+{first}"
    assert check_all(rig, group) == (0, "")
    rig.lose(0)
    assert check_all(rig, group) == (1, f"{first}: nvidia-smi lists other cards, but not this one")
    assert check_all(rig.fail(), group)[0] == 2


def test_a_card_in_whose_way_another_of_the_group_is_hides_none_that_is_lost(
    rig: Rig, tmp_path: Path
) -> None:
    """Of the first nobody can tell, as the driver stops at the lost one behind it."""
    programs = tmp_path / "bin"
    programs.mkdir()
    answers = 'echo "Unable to determine the device handle: GPU is lost"; exit 15'
    lost = 'case "$*" in *GPU-b*) echo "GPU-b, [GPU is lost]"; exit 15;; esac'
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{lost}\n{answers}\n")
    (programs / "nvidia-smi").chmod(0o755)
    path = f"{programs}:{os.environ['PATH']}"
    assert check_all(rig, "GPU-a+GPU-b+GPU-c", path) == (1, "GPU-b: the GPU is lost")
    assert check_all(rig, "GPU-a+GPU-c", path) == (3, "GPU-a: nvidia-smi stops at a lost card")


@pytest.mark.ci
def test_a_question_that_cannot_be_killed_stays_the_only_one(rig: Rig, tmp_path: Path) -> None:
    """Here nobody tries: a process that outlives SIGKILL is the kernel's alone to make."""
    programs, signs = tmp_path / "bin", tmp_path / "run/llama"
    programs.mkdir()
    signs.mkdir(parents=True)
    for name, text in {
        "timeout": 'shift 2\nexec "$@"',
        "nvidia-smi": f"echo $$ >>{tmp_path}/asked\nexec sleep 1000",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    uuid = rig.cards[0]["uuid"]
    command = [PROGRAM, uuid, "1"]
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HEARTCODE_RUN_DIR": str(tmp_path / "run"),
    }

    def ask() -> tuple[int, str]:
        # It returns, though what it has started goes on.
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        return done.returncode, done.stdout.strip().removeprefix(f"{uuid}: ")

    try:
        assert ask() == (3, "nvidia-smi does not answer and cannot be killed")
        for _ in range(2):
            assert ask() == (3, "the driver has not answered an earlier question yet")
        (asked,) = (tmp_path / "asked").read_text().split()
        # The driver lets go of it: the next look is one again.
        os.kill(int(asked), signal.SIGKILL)
        assert ask() == (3, "nvidia-smi does not answer and cannot be killed")
    finally:
        for pid in (tmp_path / "asked").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
