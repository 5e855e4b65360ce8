"""The planner's numbers against what a real llama-server says that it allocates."""

import json
import os
import shlex
from pathlib import Path

import pytest

from tests.integration.processes import free_port
from tools.planning import measure


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """llama-server as one program, as on a rig."""
    command = os.environ.get("HEARTCODE_TEST_LLAMA_SERVER", "")
    if not command:
        pytest.fail("HEARTCODE_TEST_LLAMA_SERVER is not set: make integration sets it")
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(shlex.split(command))} "$@"\n')
    program.chmod(0o755)
    return program


def test_no_part_is_underestimated(server: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"--server {server} --size 3B --quantisations Q2_K --contexts 2048 --slots 3"
    status = measure.main([*arguments.split(), "--port", str(free_port()), "--json"])
    text = capsys.readouterr().out
    found = {c["what"].split(": ")[1]: c for c in json.loads(text[text.index("[") :])}
    assert status == 0
    assert set(found) == {"model", "KV", "compute"}
    assert found["KV"]["predicted"] == found["KV"]["real"] == 357
    assert found["compute"]["error"] == pytest.approx(0, abs=0.001)


def test_a_server_that_does_not_start_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"--server {tmp_path}/none --size 3B --quantisations Q2_K --contexts 2048"
    assert measure.main([*arguments.split(), "--port", str(free_port())]) == 1
    assert "no llama-server at" in capsys.readouterr().err
