from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import gevent
import pytest
from gevent import Greenlet
from heartcode.client import Client, ClientGoneError
from heartcode.errors import ApiError
from heartcode.health.probe import info as probe_info
from heartcode.routing.admission import Limits
from heartcode.routing.backend import Backend
from heartcode.routing.breaker import State
from heartcode.routing.lease import Lease, SlotLease
from heartcode.routing.policy import POLICIES
from heartcode.routing.pool import Pool, Restorable, Restoring, nothing_restorable
from heartcode.routing.prompt_hash import Prompt
from heartcode.routing.request_info import Overflow, RequestInfo
from heartcode.upstream.usage import Usage
from hypothesis import given
from hypothesis import strategies as st

MakePool = Callable[..., Pool]
Spawn = Callable[..., "Greenlet[..., Any]"]
_serial = count()


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def info(
    client: str = "anna",
    *,
    chars: int = 40,
    letter: str = "",
    overflow: Overflow = Overflow.NEVER,
) -> RequestInfo:
    text = letter * chars or f"{next(_serial)} ".ljust(chars, "x")
    return RequestInfo(client=client, prompt=Prompt.of({"prompt": text}), overflow=overflow)


def take(pool: Pool, asked: RequestInfo | None = None, client: Client | None = None) -> Lease:
    lease = pool.take(info=asked or info(), client=client)
    assert lease is not None
    return lease


def learn(lease: Lease, *, prompt_speed: float, decode_speed: float = 25.0) -> None:
    """Let the backend have answered in these speeds, often enough that the priors have faded."""
    assert isinstance(lease, SlotLease)
    tokens = lease.info.prompt.chars / 4
    usage = Usage(
        evaluated=tokens,
        cached=0,
        generated=decode_speed,
        prompt_s=tokens / prompt_speed,
        decode_s=1.0,
    )
    for _ in range(20):
        lease.learn(usage)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_pool(clock: Clock) -> MakePool:
    def make(
        *slots: int,
        policy: str = "time_to_first_token",
        length: int = 64,
        wait_s: float = 30.0,
        restoring: Restoring = nothing_restorable,
    ) -> Pool:
        backends = [
            Backend(f"http://127.0.0.1:{8081 + number}", slots=n, clock=clock)
            for number, n in enumerate(slots)
        ]
        limits = Limits(length=length, wait_s=wait_s)
        return Pool(
            backends,
            choose=POLICIES[policy],
            limits=limits,
            restoring=restoring,
            clock=clock,
        )

    return make


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start something that waits; it runs until it does."""
    started: list[Greenlet[..., Any]] = []

    def start(function: Callable[..., object], *arguments: object) -> Greenlet[..., Any]:
        greenlet = gevent.spawn(function, *arguments)
        started.append(greenlet)
        gevent.sleep(0)
        return greenlet

    yield start
    gevent.killall(started)


@pytest.mark.parametrize("policy", POLICIES)
def test_idle_backends_take_turns(make_pool: MakePool, policy: str) -> None:
    pool = make_pool(1, 1, 1, policy=policy)
    names = []
    for _ in range(6):
        with take(pool) as lease:
            names.append(lease.backend.name)
    assert names == [backend.name for backend in pool.backends] * 2


@pytest.mark.parametrize("policy", POLICIES)
def test_every_slot_is_used_and_no_more(make_pool: MakePool, policy: str, spawn: Spawn) -> None:
    pool = make_pool(3, 1, 2, policy=policy)
    leases = [take(pool) for _ in range(6)]
    assert [backend.in_flight for backend in pool.backends] == [3, 1, 2]
    seventh = spawn(take, pool)
    assert not seventh.ready()
    leases[4].release()
    leases[4].release()  # counts once
    assert seventh.get(timeout=1).backend is leases[4].backend
    assert sum(backend.in_flight for backend in pool.backends) == 6


def test_a_question_needs_no_slot(make_pool: MakePool) -> None:
    pool = make_pool(1)
    take(pool)
    question = pool.take()
    assert question is not None
    with question as lease:
        lease.learn(None)
    assert pool.backends[0].in_flight == 1


def test_each_backend_can_be_excepted(make_pool: MakePool) -> None:
    pool = make_pool(1, 1, 1)
    for asked in (None, info()):
        tried: list[Backend] = []
        while lease := pool.take(except_for=tried, info=asked):
            lease.release()
            tried.append(lease.backend)
        assert set(tried) == set(pool.backends)


def test_a_failed_backend_is_avoided_until_it_answers(make_pool: MakePool, spawn: Spawn) -> None:
    pool = make_pool(1, 1, 1)
    bad, *others = pool.backends
    bad.has_failed("test")
    leases = [take(pool) for _ in range(2)]
    assert {lease.backend for lease in leases} == set(others)
    waits = spawn(take, pool)
    assert not waits.ready()
    probe = pool.take_idle(bad, info())
    assert probe is not None
    with probe:
        assert bad.breaker.state is State.HALF_OPEN
        bad.has_answered()
        assert not waits.ready()  # its slot is taken
    assert waits.get(timeout=1).backend is bad


def test_a_request_without_another_backend_is_a_trial(make_pool: MakePool) -> None:
    pool = make_pool(2)
    (backend,) = pool.backends
    backend.has_failed("test")
    for status, state in ((400, State.OPEN), (200, State.CLOSED)):
        with take(pool) as lease:
            assert backend.breaker.state is State.HALF_OPEN
            lease.has_answered(status)
        assert backend.breaker.state is state


def test_what_needs_no_slot_proves_nothing(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(1)
    (backend,) = pool.backends
    question = pool.take()
    assert question is not None
    with question:
        assert backend.at_work == {question}
        clock.now += 1
        question.has_answered(200)
    assert not backend.breaker.known
    assert backend.last_heard < clock.now
    assert not backend.at_work


def test_a_probe_waits_for_an_idle_backend_and_takes_nobodys_turn(make_pool: MakePool) -> None:
    pool = make_pool(2, 2)
    first, second = pool.backends
    question = pool.take(except_for=[second])
    assert question is not None
    assert pool.take_idle(first, info()) is None
    question.release()
    with take(pool) as lease:
        assert lease.backend is first
        assert pool.take_idle(first, info()) is None
    probe = pool.take_idle(second, info())
    assert probe is not None
    assert second.in_flight == 1
    probe.release()
    with take(pool) as lease:
        assert lease.backend is second


def test_a_probe_overwrites_the_oldest_conversation_and_then_itself(
    make_pool: MakePool, clock: Clock
) -> None:
    pool = make_pool(2)
    (backend,) = pool.backends
    for letter in "ab":
        with take(pool, info(chars=8000, letter=letter)):
            clock.now += 1
    for _ in range(3):
        clock.now += 300
        probe = pool.take_idle(backend, probe_info())
        assert probe is not None
        probe.release()
    held = [
        backend.cache.look_up(info(chars=8000, letter=letter).prompt).cached_chars
        for letter in "ab"
    ]
    assert held == [0, 8000]


def test_what_is_given_up_is_aborted(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lease, aborted = take(pool), []
    lease.when_given_up(lambda: aborted.append(True))
    assert not lease.is_given_up
    lease.give_up()
    assert (lease.is_given_up, aborted) == (True, [True])


def test_avoided_backends_are_better_than_none(make_pool: MakePool) -> None:
    pool = make_pool(1, 1)
    for backend in pool.backends:
        backend.has_failed("test")
    assert {take(pool).backend for _ in range(2)} == set(pool.backends)


def test_an_answer_ends_the_avoidance(make_pool: MakePool) -> None:
    pool = make_pool(1, 1)
    bad = pool.backends[0]
    bad.has_failed("test")
    bad.has_answered()
    assert take(pool).backend is bad


def test_a_conversation_goes_back_to_its_backend(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(1, 1, 1)
    homes: dict[str, Backend] = {}
    for letter in "abc":
        with take(pool, info(chars=8000, letter=letter)) as lease:
            homes[letter] = lease.backend
        clock.now += 1
    assert len(set(homes.values())) == 3
    for letter in "bacab":
        with take(pool, info(chars=9000, letter=letter)) as lease:
            assert lease.backend is homes[letter]


def test_a_backend_that_failed_has_lost_its_conversations(make_pool: MakePool) -> None:
    pool = make_pool(1, 1)
    with take(pool, info(chars=8000, letter="a")) as lease:
        lease.backend.has_failed("test")
        lease.backend.has_answered()
    with take(pool, info(chars=8000, letter="a")) as again:
        assert again.backend is not lease.backend


def test_a_new_conversation_overwrites_the_oldest(make_pool: MakePool, clock: Clock) -> None:
    pool = make_pool(1, 1, 1)
    homes = []
    for letter in "abc":
        with take(pool, info(chars=8000, letter=letter)) as lease:
            homes.append(lease.backend)
        clock.now += 600
    with take(pool, info(chars=8000, letter="a")):
        pass
    with take(pool, info(chars=8000, letter="d")) as lease:
        assert lease.backend is homes[1]


def test_the_faster_card_gets_the_long_prompt(make_pool: MakePool) -> None:
    pool = make_pool(1, 1)
    slow, fast = take(pool, info(chars=8000)), take(pool, info(chars=8000))
    learn(slow, prompt_speed=200)
    learn(fast, prompt_speed=400)
    slow.release()
    fast.release()
    for letter in "ab":
        with take(pool, info(chars=8000, letter=letter)) as lease:
            assert lease.backend is fast.backend


def test_a_short_wait_for_its_own_backend_is_chosen_and_limited(
    make_pool: MakePool, clock: Clock, spawn: Spawn
) -> None:
    pool = make_pool(1, 1)
    first = take(pool, info(chars=12000, letter="a"))
    learn(first, prompt_speed=300, decode_speed=100)
    first.release()
    other = RequestInfo(client="ben", prompt=Prompt.of({"prompt": "a" * 12000}), max_tokens=50)
    running = take(pool, other)
    assert running.backend is first.backend
    # 10 s of prompt elsewhere, or half a second of waiting.
    waits = spawn(take, pool, info(chars=12100, letter="a"))
    assert not waits.ready()
    # A stranger is not held up by it.
    stranger = take(pool, info("cleo"))
    assert stranger.backend is not first.backend
    stranger.release()
    assert not waits.ready()
    clock.now += 15  # the estimate was wrong
    assert waits.get(timeout=3).backend is not first.backend


def test_clients_take_turns(make_pool: MakePool, spawn: Spawn) -> None:
    pool = make_pool(1)
    holder = take(pool)
    served: list[str] = []

    def work(name: str) -> None:
        with take(pool, info(name)):
            served.append(name)
            gevent.sleep(0)

    waiting = [spawn(work, "greedy") for _ in range(20)] + [spawn(work, "modest")]
    assert served == []
    holder.release()
    gevent.joinall(waiting, timeout=5)
    assert Counter(served) == {"greedy": 20, "modest": 1}
    assert served.index("modest") == 1


def test_a_full_queue_says_when_to_come_again(
    make_pool: MakePool, clock: Clock, spawn: Spawn
) -> None:
    pool = make_pool(1, length=1)
    first = take(pool)
    learn(first, prompt_speed=300, decode_speed=25)
    first.release()
    take(pool, RequestInfo(client="ben", prompt=Prompt.of({"prompt": "x"}), max_tokens=500))
    spawn(take, pool)
    for elapsed, low, high in ((0, 2, 5), (2, 1, 3), (100, 1, 2)):
        clock.now += elapsed
        with pytest.raises(ApiError) as refused:
            take(pool)
        assert (refused.value.status, refused.value.code) == (429, "queue_full")
        assert low <= int(refused.value.headers["Retry-After"]) <= high


def test_without_a_queue_a_request_is_served_or_refused_at_once(make_pool: MakePool) -> None:
    pool = make_pool(1, length=0)
    with take(pool), pytest.raises(ApiError) as refused:
        take(pool)
    assert refused.value.status == 429
    take(pool)


def test_who_tries_for_a_slot_does_not_wait(make_pool: MakePool) -> None:
    pool = make_pool(1)
    lease = take(pool, info(overflow=Overflow.WHEN_BUSY))
    with pytest.raises(ApiError) as refused:
        take(pool, info(overflow=Overflow.WHEN_BUSY))
    assert (refused.value.status, refused.value.code) == (403, "slots_busy")
    lease.release()
    take(pool, info(overflow=Overflow.WHEN_BUSY))


def test_a_slot_of_another_model_is_none_for_who_tries(make_pool: MakePool) -> None:
    pool = make_pool(1, 1)
    lease = pool.take(serving=pool.backends[:1], info=info())
    assert lease
    with pytest.raises(ApiError, match="busy"):
        pool.take(serving=pool.backends[:1], info=info(overflow=Overflow.WHEN_BUSY))


def test_no_more_wait_for_a_better_slot_than_slots_are_free(
    make_pool: MakePool, spawn: Spawn
) -> None:
    pool = make_pool(1, 1)
    first = take(pool, info(chars=12000, letter="a"))
    learn(first, prompt_speed=300, decode_speed=100)
    first.release()
    running = take(
        pool, RequestInfo(client="ben", prompt=Prompt.of({"prompt": "a" * 12000}), max_tokens=50)
    )
    # Half a second of waiting, or 10 s of prompt at the free one.
    held = spawn(take, pool, info(chars=12100, letter="a", overflow=Overflow.WHEN_BUSY))
    assert not held.ready()
    with pytest.raises(ApiError, match="busy"):
        take(pool, info("cleo", overflow=Overflow.WHEN_BUSY))
    running.release()
    assert held.get(timeout=5).backend is first.backend


def test_who_tries_for_the_queue_waits_unless_it_is_full(make_pool: MakePool, spawn: Spawn) -> None:
    pool = make_pool(1, length=1)
    lease = take(pool)
    waiting = spawn(take, pool, info(overflow=Overflow.WHEN_FULL))
    gevent.sleep(0)
    with pytest.raises(ApiError) as refused:
        take(pool, info(overflow=Overflow.WHEN_FULL))
    assert (refused.value.status, refused.value.code) == (403, "queue_full")
    assert int(refused.value.headers["Retry-After"]) >= 1
    lease.release()
    assert waiting.get(timeout=5)


def test_what_was_admitted_once_is_not_refused(make_pool: MakePool, spawn: Spawn) -> None:
    pool = make_pool(1, 1, length=0)
    moving = info()
    failed = take(pool, moving)
    busy = take(pool)
    failed.release()
    again = spawn(lambda: pool.take(except_for=[failed.backend], info=moving))
    assert not again.ready()
    busy.release()
    assert again.get(timeout=1).backend is busy.backend


def test_waiting_has_an_end(make_pool: MakePool, clock: Clock, spawn: Spawn) -> None:
    pool = make_pool(1, wait_s=20)
    holder, late = take(pool), info()
    waits = spawn(take, pool, late)
    clock.now += 20
    with pytest.raises(ApiError) as refused:
        waits.get(timeout=3)
    assert (refused.value.status, refused.value.code) == (504, "queue_timeout")
    assert late.queued_s == 20
    holder.release()
    take(pool)


def test_who_leaves_is_gone_at_once(make_pool: MakePool, spawn: Spawn) -> None:
    pool = make_pool(1, length=2)
    holder, leaver = take(pool), Client()
    leaves = spawn(take, pool, info(), leaver)
    stays = spawn(take, pool)
    leaver.has_left()
    third = spawn(take, pool)  # there is room again, before anybody else ran
    with pytest.raises(ClientGoneError):
        leaves.get(timeout=1)
    holder.release()
    stays.get(timeout=1).release()
    third.get(timeout=1).release()
    assert pool.backends[0].in_flight == 0


def test_a_wait_that_is_broken_off_gives_the_slot_back(make_pool: MakePool, spawn: Spawn) -> None:
    pool = make_pool(1)
    holder, waits = take(pool), spawn(take, pool)
    waits.kill(block=False)
    holder.release()  # it is called when it is already doomed
    waits.join(timeout=1)
    assert pool.backends[0].in_flight == 0


def test_an_answer_teaches_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(1, 1)
    lease = take(pool, info(chars=4000))
    learn(lease, prompt_speed=500, decode_speed=40)
    known, unknown = (backend.throughput for backend in pool.backends)
    assert known.prompt.value == pytest.approx(500, rel=0.02)
    assert known.decode.value == pytest.approx(40, rel=0.05)
    assert unknown.prompt.value == 300  # made without a rig's speeds


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=40))
def test_in_any_order_slots_are_kept_and_everyone_is_served(
    requests: list[tuple[str, int]],
) -> None:
    backends = [Backend(f"http://127.0.0.1:{n}", slots=s) for n, s in ((81, 1), (82, 2))]
    pool = Pool(backends, limits=Limits(length=100, wait_s=60))
    served = []

    def work(client: str, pauses: int) -> None:
        with take(pool, info(client, chars=200)) as lease:
            assert lease.backend.in_flight <= lease.backend.slots
            for _ in range(pauses):
                gevent.sleep(0)
            served.append(client)

    running = [gevent.spawn(work, *request) for request in requests]
    gevent.joinall(running, timeout=30, raise_error=True)
    assert Counter(served) == Counter(client for client, _ in requests)
    assert all(backend.in_flight == 0 for backend in backends)


def test_a_backend_that_can_restore_a_conversation_reads_less_of_it(make_pool: MakePool) -> None:
    def restoring(backend: Backend, prompt: Prompt) -> Restorable | None:
        is_second = backend.port == 8082
        return Restorable(chars=prompt.chars, seconds=1.0) if is_second else None

    for seconds, port in ((1.0, 8082), (1000.0, 8081)):
        pool = make_pool(
            1,
            1,
            restoring=lambda backend, prompt, s=seconds: (
                replace(found, seconds=s) if (found := restoring(backend, prompt)) else None
            ),
        )
        assert take(pool, info(chars=30_000)).backend.port == port


def test_a_backend_that_writes_a_file_is_not_the_first_choice(
    make_pool: MakePool, clock: Clock
) -> None:
    pool = make_pool(1, 1)
    pool.backends[0].occupied_until = clock.now + 5.0
    assert take(pool).backend is pool.backends[1]
    assert take(pool).backend is pool.backends[0]
