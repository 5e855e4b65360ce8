"""When a request has been moved often enough."""

from __future__ import annotations

import time
from collections.abc import Container
from pathlib import Path

import pytest
from heartcode.errors import ApiError
from heartcode.relay.retry import RetryBudget
from heartcode.routing.backend import Backend
from heartcode.routing.lease import Lease
from heartcode.routing.served_model import ServedModel
from heartcode.routing.unit_signs import UnitSigns
from heartcode.upstream.exchange import BackendError, Reason


class Rig:
    """Backends that are leased in turn, and the signs of their units."""

    def __init__(self, run_dir: Path, how_many: int) -> None:
        self.signs = run_dir / "llama"
        self.signs.mkdir()
        self.backends = [
            Backend(
                f"http://127.0.0.1:{number + 1}",
                served=ServedModel("b", signs=UnitSigns(run_dir, number)),
            )
            for number in range(how_many)
        ]

    def take(self, tried: Container[Backend]) -> Lease | None:
        left = [backend for backend in self.backends if backend not in tried]
        best = min(left, key=lambda backend: backend.avoided, default=None)
        return None if best is None else Lease(best)

    def stop(self, backend: Backend) -> None:
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        (self.signs / f"{self.backends.index(backend)}.stopped").write_text(f"{now:.2f}\n")


def broken() -> BackendError:
    return BackendError(Reason.BROKEN)


def test_two_deaths_are_enough(tmp_path: Path) -> None:
    budget = RetryBudget(Rig(tmp_path, 4).take, max_moves=3)
    for _ in range(2):
        budget.next_lease()
        assert budget.has_failed(broken()) is Reason.BROKEN
    with pytest.raises(ApiError) as error:
        budget.next_lease()
    assert error.value.code == "request_kills_backends"


def test_backends_that_are_stopped_are_no_deaths(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 2)
    budget = RetryBudget(rig.take, max_moves=1)
    for number in range(8):
        backend = budget.next_lease().backend
        # Restarted in turn: the one before is there again.
        assert backend is rig.backends[number % 2]
        rig.stop(backend)
        assert budget.has_failed(broken()) is Reason.STOPPED
        assert backend.avoided
        rig.backends[(number + 1) % 2].has_answered()
    budget.next_lease()
    assert budget.has_failed(BackendError(Reason.UNREACHABLE)) is Reason.UNREACHABLE
    budget.next_lease()


def test_a_stop_that_was_silent_is_one_too(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 2)
    budget = RetryBudget(rig.take, max_moves=3)
    lease = budget.next_lease()
    rig.stop(lease.backend)
    lease.give_up()
    assert budget.has_failed(broken()) is Reason.STOPPED
    # Without the sign it hangs.
    lease = budget.next_lease()
    lease.give_up()
    assert budget.has_failed(broken()) is Reason.SILENT


def test_a_death_after_a_stop_is_one_all_the_same(tmp_path: Path) -> None:
    rig = Rig(tmp_path, 4)
    budget = RetryBudget(rig.take, max_moves=3)
    rig.stop(budget.next_lease().backend)
    budget.has_failed(broken())
    for _ in range(2):
        budget.next_lease()
        budget.has_failed(broken())
    with pytest.raises(ApiError) as error:
        budget.next_lease()
    assert error.value.code == "request_kills_backends"


@pytest.mark.parametrize("reason", [Reason.CONTEXT, Reason.OTHER_MODEL])
def test_a_backend_that_is_the_wrong_one_is_no_failure(tmp_path: Path, reason: Reason) -> None:
    rig = Rig(tmp_path, 3)
    budget = RetryBudget(rig.take, max_moves=0)
    for backend in rig.backends:
        assert budget.next_lease().backend is backend  # never the same twice
        budget.has_failed(BackendError(reason))
        assert not backend.avoided
    with pytest.raises(ApiError) as error:
        budget.next_lease()
    assert error.value.status == 503
