from __future__ import annotations

from pathlib import Path

import pytest
from heartcode.health import probe
from heartcode.health.monitor import HealthCheck, Monitor
from heartcode.health.restart_request import RestartRequest
from heartcode.routing.admission import Limits
from heartcode.routing.backend import Backend
from heartcode.routing.breaker import Breaker
from heartcode.routing.pool import Pool
from heartcode.routing.served_model import ServedModel
from heartcode.routing.unit_signs import UnitSigns
from heartcode.upstream.exchange import BackendError, Reason

URL = "http://127.0.0.1:1"  # where nobody listens


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def monitor_of(backend: Backend, run_dir: Path, clock: Clock) -> Monitor:
    return Monitor(
        backend,
        Pool([backend], limits=Limits(length=1, wait_s=1), clock=clock),
        health_check=HealthCheck(suspect_s=1, timeout_s=1, idle_s=1),
        restart_request=RestartRequest(run_dir / "hung" / "0", backend=backend.name, pause_s=1),
        clock=clock,
    )


def test_a_backend_that_writes_a_file_is_not_judged_meanwhile(tmp_path: Path) -> None:
    backend = Backend(URL)
    monitor = monitor_of(backend, tmp_path, Clock())
    backend.is_occupied = True
    monitor.look()
    assert not backend.breaker.known
    backend.is_occupied = False
    monitor.look()
    assert backend.breaker.known


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Backend]:
    """Who has been asked; nobody answers."""
    found: list[Backend] = []

    def ask(backend: Backend, *, timeout_s: float) -> None:
        found.append(backend)
        raise BackendError(Reason.UNREACHABLE, timeout_s)

    monkeypatch.setattr(probe, "is_there", ask)
    return found


def test_what_has_failed_often_is_asked_soon_once_it_has_been_started_anew(
    tmp_path: Path, asked: list[Backend]
) -> None:
    """Its model is loaded in seconds, and the pause would have grown to longer than that."""
    clock, waiting = Clock(), tmp_path / "llama" / "0.waiting"
    waiting.parent.mkdir()
    backend = Backend(
        URL,
        breaker=Breaker(first_pause_s=1, longest_pause_s=600, clock=clock),
        served=ServedModel("", signs=UnitSigns(tmp_path, 0)),
        clock=clock,
    )
    monitor = monitor_of(backend, tmp_path, clock)
    for _ in range(6):
        monitor.look()
        clock.now = backend.breaker.due
    monitor.look()
    assert len(asked) == 7
    seconds = 10
    assert backend.breaker.due > clock.now + 2 * seconds

    def look() -> int:
        """How often it is asked in so many seconds."""
        before = len(asked)
        for _ in range(seconds):
            clock.now += 1
            monitor.look()
        return len(asked) - before

    assert look() == 0
    waiting.touch()
    assert look() == seconds // 2
