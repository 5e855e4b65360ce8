"""The test that a new llama-server has to pass, with a real one and real models."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from heartcode_models.demo import counting

SMOKE_TEST = Path(__file__).parents[2] / "roles/llama_cpp/files/smoke_test.py"


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """The llama-server under test as one file, as it lies on a rig."""
    path = tmp_path / "llama-server"
    path.write_text(f'#!/bin/sh\nexec {os.environ["HEARTCODE_TEST_LLAMA_SERVER"]} "$@"\n')
    path.chmod(0o755)
    return path


def smoke_test(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SMOKE_TEST, *arguments], capture_output=True, text=True, check=False
    )


def test_a_server_that_counts_passes(server: Path, tmp_path: Path) -> None:
    counting.write_model(tmp_path / "model.gguf", numbers=100)
    done = smoke_test(server, tmp_path / "model.gguf")
    assert (done.returncode, done.stdout) == (0, "It counts on the CPU.\n"), done.stderr


def test_a_server_has_to_call_itself_what_was_built(server: Path, tmp_path: Path) -> None:
    counting.write_model(tmp_path / "model.gguf", numbers=100)
    done = smoke_test(server, tmp_path / "model.gguf", "--build", "b1-of-nobody")
    assert done.returncode == 1
    found = re.search(
        "it calls itself '(b[0-9]+-[0-9a-f]+)' instead of 'b1-of-nobody'", done.stderr
    )
    assert found, done.stderr
    done = smoke_test(server, tmp_path / "model.gguf", "--build", found[1])
    assert done.returncode == 0, done.stderr


def test_a_server_that_says_something_else_does_not_pass(server: Path, tmp_path: Path) -> None:
    counting.write_model(tmp_path / "model.gguf", numbers=9)
    done = smoke_test(server, tmp_path / "model.gguf")
    assert done.returncode == 1
    assert "after ' 7' it says ' 8 9' instead of ' 8 9 10 11 12'" in done.stderr


def test_a_server_that_cannot_load_does_not_pass(server: Path, tmp_path: Path) -> None:
    counting.write_model(tmp_path / "model.gguf", numbers=100)
    whole = (tmp_path / "model.gguf").read_bytes()
    (tmp_path / "model.gguf").write_bytes(whole[: len(whole) // 2])
    done = smoke_test(server, tmp_path / "model.gguf")
    assert done.returncode == 1
    assert "Counting on the CPU: it ended with 1" in done.stderr
    assert "model" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_program_that_is_no_server_does_not_pass(tmp_path: Path) -> None:
    done = smoke_test("/bin/false", tmp_path / "model.gguf")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Counting on the CPU: it ended with 1: nothing" in done.stderr


def test_a_card_that_no_driver_shows_is_not_asked_for(server: Path, tmp_path: Path) -> None:
    counting.write_model(tmp_path / "model.gguf", numbers=100)
    done = smoke_test(server, tmp_path / "model.gguf", "--cards", "GPU-1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "It counts on the CPU alone; no card has 768 MiB free.\n"
