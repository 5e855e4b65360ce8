from __future__ import annotations

from collections import Counter

import pytest
from heartcode.pool import Backend, Lease, Pool


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def take(pool: Pool) -> Lease:
    lease = pool.take()
    assert lease is not None
    return lease


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(clock: Clock) -> Pool:
    urls = [f"http://127.0.0.1:{port}" for port in (8081, 8082, 8083)]
    return Pool(Backend(url, avoid_s=5, clock=clock) for url in urls)


def test_idle_backends_take_turns(pool: Pool) -> None:
    names = []
    for _ in range(6):
        with take(pool) as lease:
            names.append(lease.backend.name)
    assert names == [backend.name for backend in pool.backends] * 2


def test_requests_in_flight_are_spread_evenly(pool: Pool) -> None:
    leases = [take(pool) for _ in range(7)]
    spread = Counter(lease.backend for lease in leases)
    assert sorted(spread.values()) == [2, 2, 3]
    leases[4].release()
    leases[4].release()  # counts once
    assert sum(backend.in_flight for backend in pool.backends) == 6


def test_each_backend_can_be_excepted(pool: Pool) -> None:
    tried: list[Backend] = []
    while lease := pool.take(except_for=tried):
        lease.release()
        tried.append(lease.backend)
    assert tried == list(pool.backends)


def test_a_failed_backend_is_avoided_for_a_while(pool: Pool, clock: Clock) -> None:
    bad, *others = pool.backends
    bad.has_failed()
    leases = [take(pool) for _ in range(4)]
    assert {lease.backend for lease in leases} == set(others)
    clock.now += 5
    assert take(pool).backend is bad


def test_avoided_backends_are_better_than_none(pool: Pool) -> None:
    for backend in pool.backends:
        backend.has_failed()
    assert take(pool).backend in pool.backends


def test_an_answer_ends_the_avoidance(pool: Pool) -> None:
    bad = pool.backends[0]
    bad.has_failed()
    bad.has_answered()
    assert take(pool).backend is bad
