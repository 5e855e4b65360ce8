"""The processes that read cards, without cards: how they end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from heartcode.exporter import gpu_reader

UUID = "GPU-00000000-0000-0000-0000-000000000001"
TIMEOUT_S = 0.2


def say_and_end(_uuid: str, _interval_s: float, pipe: int) -> None:
    os.write(pipe, b'{"read": {}}\n')
    os._exit(3)


def close_and_stay(_uuid: str, _interval_s: float, pipe: int) -> None:
    """As a process that was killed: its pipe is closed, and the driver keeps it from dying."""
    os.close(pipe)
    signal.pause()


Told = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def told(capfd: pytest.CaptureFixture[str]) -> Told:
    return lambda: [json.loads(line) for line in capfd.readouterr().out.splitlines()]


@pytest.fixture
def card() -> Iterator[gpu_reader._CardProcess]:
    one = gpu_reader._CardProcess(UUID, 0.1, TIMEOUT_S)
    yield one
    if one._pid:
        os.kill(one._pid, signal.SIGKILL)
        os.waitpid(one._pid, 0)


def bury(card: gpu_reader._CardProcess) -> None:
    """Do what the loop does when it is due."""
    deadline = time.monotonic() + 30
    while card.is_ending and time.monotonic() < deadline:
        time.sleep(max(0.0, card.due - time.monotonic()))
        card.bury()
    assert not card.is_ending


def test_a_process_that_ends_is_told_with_its_status(
    card: gpu_reader._CardProcess, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_reader, "_be_card", say_and_end)
    card.start()
    assert card.listen()
    assert not card.listen()
    bury(card)
    assert told() == [
        {"uuid": UUID, "read": {}},
        {"uuid": UUID, "gone": "died", "why": f"its reader ended with status {3 << 8}"},
    ]


def test_one_that_cannot_die_is_not_waited_for_and_gets_no_successor(
    card: gpu_reader._CardProcess, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_reader, "_be_card", close_and_stay)
    card.start()
    # Returns, though the process is there.
    assert not card.listen()
    assert (card.runs, card.is_ending) == (False, True)
    deadline = time.monotonic() + 30
    while not (said := told()) and time.monotonic() < deadline:
        time.sleep(max(0.0, card.due - time.monotonic()))
        card.bury()
    assert said == [
        {"uuid": UUID, "gone": "hang", "why": "the driver does not let go of its reader"}
    ]
    card.bury()
    assert card.is_ending
    # The driver has let go of it: nothing more to say, and the card is looked for again.
    os.kill(card._pid, signal.SIGKILL)
    bury(card)
    assert told() == []
    assert not card.runs
