from __future__ import annotations

from pathlib import Path

from heartcode.health.monitor import HealthCheck, Monitor
from heartcode.health.restart_request import RestartRequest
from heartcode.routing.admission import Limits
from heartcode.routing.backend import Backend
from heartcode.routing.pool import Pool


def test_a_backend_that_writes_a_file_is_not_judged_meanwhile(tmp_path: Path) -> None:
    backend = Backend("http://127.0.0.1:1")  # where nobody listens
    pool = Pool([backend], limits=Limits(length=1, wait_s=1))
    monitor = Monitor(
        backend,
        pool,
        health_check=HealthCheck(suspect_s=1, timeout_s=1, idle_s=1),
        restart_request=RestartRequest(tmp_path / "hung" / "0", backend=backend.name, pause_s=1),
    )
    backend.is_occupied = True
    monitor.look()
    assert not backend.breaker.known
    backend.is_occupied = False
    monitor.look()
    assert backend.breaker.known
