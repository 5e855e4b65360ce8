from __future__ import annotations

import json
from pathlib import Path

import pytest
from heartcode.health.restart_request import RestartRequest


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_wish_is_an_empty_file_and_is_not_repeated_too_soon(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "run" / "hung" / "3"
    restart_request = RestartRequest(file, backend="here:1", pause_s=300, clock=clock)
    assert restart_request.ask()
    assert file.read_bytes() == b""
    file.unlink()
    clock.now += 299
    assert not restart_request.ask()
    assert not file.exists()
    clock.now += 1
    assert restart_request.ask()
    assert file.exists()


def test_a_wish_that_cannot_be_made_is_told_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hung").touch()  # no directory
    restart_request = RestartRequest(tmp_path / "hung" / "3", backend="here:1", pause_s=300)
    assert not restart_request.ask()
    told = json.loads(caplog.messages[-1])
    assert (told["event"], told["backend"]) == ("revival_failed", "here:1")
    assert "restart the backend yourself" in told["why"]
    (tmp_path / "hung").unlink()
    assert restart_request.ask()
