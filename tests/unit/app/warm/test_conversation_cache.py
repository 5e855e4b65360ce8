from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from heartcode.routing.admission import Limits as QueueLimits
from heartcode.routing.backend import Backend
from heartcode.routing.lease import SlotLease
from heartcode.routing.pool import Pool
from heartcode.routing.request_info import RequestInfo
from heartcode.upstream.exchange import BackendError, Reason, UpstreamRequest
from heartcode.upstream.identity import Identity, Told
from heartcode.upstream.usage import Usage
from heartcode.warm import slots
from heartcode.warm.budget import SHARE
from heartcode.warm.conversation_cache import ConversationCache, Limits
from heartcode.warm.store import Store
from prometheus_client import REGISTRY

IDENTITY = Identity(told=Told(n_ctx=8192), samples="5a" * 32)
STATE = b"state" * 1000
TOKENS = 2000


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """One backend, whose llama-server is this."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.directory = directory
        self.store = Store.open(directory, limit_bytes=10**9, keep_s=86400)
        limits = Limits(idle_s=15, min_tokens=500)
        self.cache = ConversationCache(self.store, limits, clock=self.clock)
        self.backend = Backend("http://127.0.0.1:1", slots=2, clock=self.clock)
        self.backend.served.note(IDENTITY, 0)
        self.backend.has_answered()
        self.pool = Pool(
            [self.backend],
            limits=QueueLimits(length=1, wait_s=1),
            restoring=self.cache.restorable,
            clock=self.clock,
        )
        self.done: list[tuple[str, int]] = []
        self.error: Exception | None = None
        self.is_busy = False
        self.takes_s = 0.1
        self.restored_tokens = TOKENS
        monkeypatch.setattr(slots, "save", self.save)
        monkeypatch.setattr(slots, "restore", self.restore)
        monkeypatch.setattr(slots, "erase", self.erase)
        monkeypatch.setattr(slots, "are_idle", lambda *_, **__: not self.is_busy)

    def save(self, _: Backend, number: int, name: str, **__: Any) -> slots.Moved:
        self.done.append(("save", number))
        (self.directory / name).write_bytes(STATE)
        self.clock.now += self.takes_s
        if self.error:
            raise self.error
        return slots.Moved(tokens=TOKENS, size=len(STATE), seconds=self.takes_s)

    def restore(self, _: Backend, number: int, name: str, **__: Any) -> slots.Moved:
        self.done.append(("restore", number))
        if self.error:
            raise self.error
        size = (self.directory / name).stat().st_size
        return slots.Moved(tokens=self.restored_tokens, size=size, seconds=self.takes_s)

    def erase(self, _: Backend, number: int, **__: Any) -> None:
        self.done.append(("erase", number))
        if self.error:
            raise self.error

    def take(self, *said: str, **fields: Any) -> SlotLease:
        messages = [{"role": "user", "content": text * 8000} for text in said]
        fields["messages"] = messages
        info = RequestInfo.of(fields, "", secret=self.cache.secret)
        lease = self.pool.take(info=info)
        assert isinstance(lease, SlotLease)
        return lease

    def ask(self, *said: str, cached: int = 0) -> UpstreamRequest:
        lease = self.take(*said)
        with lease:
            request = self.cache.prepared(lease, REQUEST)
            self.clock.now += 1
            lease.learn(Usage(evaluated=TOKENS - cached, cached=cached, generated=50))
        return request

    def saves_in(self, seconds: float) -> None:
        """Let a file take as long, and let that be known."""
        self.takes_s = seconds
        speeds = self.backend.throughput
        speeds.writing.learn(TOKENS * speeds.state_bytes.value, seconds)

    def rest(self, seconds: float = 20.0) -> None:
        self.clock.now += seconds
        self.cache.save_what_is_idle(self.backend)
        self.wait_for_files()

    def wait_for_files(self) -> None:
        """Return when all that has been written is known."""
        gevent.sleep(0)  # what was spawned begins
        while any(side.committing for side in self.cache._sides.values()):
            gevent.sleep(0.001)


REQUEST = UpstreamRequest(method="POST", path="/v1/chat/completions", body=b'{"messages": []}')


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(tmp_path / "kept", monkeypatch)
    yield made
    made.wait_for_files()


def test_what_is_idle_for_long_enough_is_saved_once(rig: Rig) -> None:
    assert b'"id_slot":0' in (rig.ask("a").body or b"")
    rig.rest(10)
    assert rig.done == []
    rig.rest(10)
    rig.rest()
    assert rig.done == [("save", 0)]
    assert len(rig.store) == 1


def test_a_file_is_read_as_fast_as_it_was_written_until_that_is_known(rig: Rig) -> None:
    rig.takes_s = 1.0
    rig.ask("a")
    rig.rest()
    rig.backend.cache.forget()
    prompt = RequestInfo.of(
        {"messages": [{"role": "user", "content": "a" * 8000}]}, "", secret=rig.cache.secret
    ).prompt
    known = rig.cache.restorable(rig.backend, prompt)
    assert known is not None
    # The beginning's 200 MB/s count for a tenth of a second.
    assert known.seconds > 10 * len(STATE) / 200e6


def test_what_came_of_files_can_be_told_before_there_is_one(rig: Rig) -> None:
    rig.rest()
    told = {"backend": rig.backend.name}
    for name, result in (("warm_saves", "saved"), ("warm_restores", "restored")):
        sample = REGISTRY.get_sample_value(f"{name}_total", {**told, "result": result})
        assert sample is not None


def test_a_short_one_is_not(rig: Rig) -> None:
    lease = rig.take("a")
    with lease:
        rig.cache.prepared(lease, REQUEST)
        lease.learn(Usage(evaluated=100, cached=0, generated=50))
    rig.rest()
    assert rig.done == []


def test_it_comes_back_when_the_llama_server_has_lost_it(rig: Rig) -> None:
    rig.ask("a")
    rig.rest()
    rig.backend.cache.forget()
    lease = rig.take("a", "b")
    rig.cache.prepared(lease, REQUEST)
    assert rig.done[-1][0] == "restore"
    lease.learn(Usage(evaluated=100, cached=TOKENS - 1, generated=5))
    lease.release()
    assert lease.info.restored_tokens == TOKENS - 1
    # It is in its slot now.
    rig.ask("a", "b")
    assert [what for what, _ in rig.done].count("restore") == 1


def test_one_that_finds_nothing_in_its_slot_has_the_others_come_from_their_files(rig: Rig) -> None:
    """Without a unit, a llama-server may be started anew between two looks of the monitor."""
    rig.ask("a")
    rig.ask("b")
    rig.rest()
    rig.ask("a", "on", cached=0)
    rig.ask("b", "on", cached=TOKENS)
    assert rig.done == [("save", 0), ("save", 1), ("restore", 1)]


def test_who_wants_its_prompt_read_anew_says_nothing_of_the_slots(rig: Rig) -> None:
    rig.ask("a")
    rig.ask("b")
    rig.rest()
    lease = rig.take("a", "on", cache_prompt=False)
    with lease:
        rig.cache.prepared(lease, REQUEST)
        lease.learn(Usage(evaluated=TOKENS, cached=0, generated=50))
    rig.ask("b", "on", cached=TOKENS)
    assert rig.done == [("save", 0), ("save", 1)]


def test_the_choice_of_a_backend_knows_of_it(rig: Rig) -> None:
    rig.ask("a")
    rig.rest()
    rig.backend.cache.forget()
    prompt = rig.take("a", "b").info.prompt
    found = rig.cache.restorable(rig.backend, prompt)
    assert found is not None
    assert found.chars > 0.4 * prompt.chars


def test_an_answer_that_is_coming_waits_for_a_share_of_its_time_alone(rig: Rig) -> None:
    rig.saves_in(1.0)
    busy = rig.take("busy")
    rig.cache.prepared(busy, REQUEST)
    rig.clock.now += 3600  # its prompt is long
    busy.has_answered(200)
    began = rig.clock.now
    for number in range(200):
        rig.ask(f"{number}.")
        rig.rest(20)
    seconds = rig.clock.now - began
    saved = len([each for each in rig.done if each[0] == "save"])
    assert 0.03 * seconds < saved * rig.takes_s <= SHARE * seconds
    busy.release()


def test_short_answers_do_not_wait_at_all(rig: Rig) -> None:
    rig.saves_in(1.0)
    rig.ask("a")
    for _ in range(10):
        with rig.take("b"):
            rig.rest(20)
    assert rig.done == []
    rig.rest(0)
    assert rig.done == [("save", 0)]


def test_where_it_fails_it_pauses_for_longer_each_time(rig: Rig) -> None:
    rig.error = BackendError(Reason.SILENT)
    rig.ask("a")
    for _ in range(30):
        rig.rest(20)
    # After 60, 120 and 240 seconds.
    assert 3 <= len(rig.done) <= 4
    assert [path.name for path in rig.directory.iterdir()] == ["secret"]
    rig.error = None
    rig.rest(3600)
    assert len(rig.store) == 1


def test_a_slow_disk_is_spared(rig: Rig) -> None:
    rig.takes_s = 6.0
    rig.ask("a")
    rig.rest(20)
    rig.ask("b")
    rig.rest(20)
    assert len(rig.done) == 1
    rig.rest(60)
    assert len(rig.done) == 2


def test_what_came_in_between_is_not_taken_for_what_was_there(rig: Rig) -> None:
    rig.ask("a")
    save = rig.save

    def overtaken(*args: Any, **options: Any) -> slots.Moved:
        rig.take("a", "b")
        return save(*args, **options)

    slots.save = overtaken  # the fixture's monkeypatch puts the real one back
    rig.rest()
    assert rig.done == [("save", 0)]
    assert [path.name for path in rig.directory.iterdir()] == ["secret"]


def test_nothing_is_named_while_somebody_else_is_served(rig: Rig) -> None:
    rig.is_busy = True
    assert rig.ask("a") is REQUEST
    rig.is_busy = False
    assert rig.ask("a") is not REQUEST


def test_a_worker_that_ends_leaves_the_slots_to_the_next(rig: Rig) -> None:
    rig.ask("a")
    rig.cache.retire()
    assert rig.ask("a") is REQUEST
    rig.rest()
    assert rig.done == []


SEVERAL = replace(REQUEST, has_choices=True)
#: llama-server makes a body of its own of it, and would not read `id_slot`.
MESSAGE = replace(REQUEST, path="/v1/messages")


@pytest.mark.parametrize("unnamed", [SEVERAL, MESSAGE])
def test_what_cannot_name_its_slots_leaves_all_unsure(rig: Rig, unnamed: UpstreamRequest) -> None:
    rig.ask("a")
    lease = rig.take("b")
    with lease:
        assert rig.cache.prepared(lease, unnamed) is unnamed
        assert rig.ask("c") is REQUEST, "the slot that it would name may be taken"
    rig.rest()
    assert rig.done == []
    assert rig.ask("d") is not REQUEST, "nobody else is served any more"


def test_what_is_damaged_is_emptied_and_dropped(rig: Rig) -> None:
    rig.ask("a")
    rig.rest()
    (state,) = rig.directory.glob("*.kv")
    state.write_bytes(STATE[:-1] + b"?")
    rig.backend.cache.forget()
    lease = rig.take("a", "b")
    assert rig.cache.prepared(lease, REQUEST) is not REQUEST
    assert [what for what, _ in rig.done] == ["save", "restore", "erase"]
    assert lease.restored_tokens == 0
    assert len(rig.store) == 0


def test_a_slot_that_cannot_be_emptied_is_not_used(rig: Rig) -> None:
    rig.ask("a")
    rig.rest()
    (state,) = rig.directory.glob("*.kv")
    state.write_bytes(STATE[:-1] + b"?")
    rig.backend.cache.forget()
    restore = rig.restore

    def then_refuses(*args: Any, **options: Any) -> slots.Moved:
        moved = restore(*args, **options)
        rig.error = slots.RefusedError(500, "no")
        return moved

    slots.restore = then_refuses
    with pytest.raises(BackendError):
        rig.cache.prepared(rig.take("a", "b"), REQUEST)


def test_a_file_that_llama_server_refuses_is_dropped(rig: Rig) -> None:
    rig.ask("a")
    rig.rest()
    rig.backend.cache.forget()
    rig.error = slots.RefusedError(400, "Unable to restore slot")
    assert rig.cache.prepared(rig.take("a", "b"), REQUEST) is not REQUEST
    assert len(rig.store) == 0


def test_what_takes_too_long_is_not_relied_on_and_known_to_be_slow(rig: Rig) -> None:
    rig.ask("a")
    rig.rest()
    rig.backend.cache.forget()

    def silent(*given: Any, **_: Any) -> slots.Moved:
        rig.done.append(("restore", given[1]))
        rig.clock.now += 30
        raise BackendError(Reason.SILENT)

    slots.restore = silent
    before = rig.backend.throughput.reading.value
    lease = rig.take("a", "b")
    with lease:
        assert rig.cache.prepared(lease, REQUEST) is not REQUEST
    assert [what for what, _ in rig.done] == ["save", "restore", "erase"]
    assert rig.backend.throughput.reading.value < before


@pytest.mark.parametrize("reason", [Reason.SILENT, Reason.BROKEN])
def test_a_request_whose_backend_was_let_go_of_meanwhile_is_not_sent(
    rig: Rig, reason: Reason
) -> None:
    rig.ask("a")
    rig.rest()
    rig.backend.cache.forget()
    lease = rig.take("a", "b")
    with lease:

        def let_go(*_: Any, **__: Any) -> slots.Moved:
            lease.give_up()
            raise BackendError(reason)

        slots.restore = let_go
        with pytest.raises(BackendError):
            rig.cache.prepared(lease, REQUEST)
    assert [what for what, _ in rig.done] == ["save"]


@pytest.mark.parametrize(
    "error", [slots.RefusedError(400, "Unable to restore slot"), BackendError(Reason.SILENT)]
)
def test_a_slot_that_was_emptied_for_a_file_says_nothing_of_the_others(
    rig: Rig, error: Exception
) -> None:
    """It held a part of what the file was to bring, and is empty because that was not read."""
    rig.ask("a", "b", "c", "d")
    rig.rest()
    rig.ask("a", "x", cached=TOKENS)  # goes on in the same slot, and leaves its beginning alone
    rig.ask("z")
    rig.rest()

    def fails(*_: Any, **__: Any) -> slots.Moved:
        rig.done.append(("fails", 0))
        raise error

    slots.restore = fails
    rig.ask("a", "b", "c", "d", "e", cached=0)
    assert ("fails", 0) in rig.done
    assert len(list(rig.backend.cache.idle())) == 2


def test_chats_with_one_beginning_get_it_from_the_file_of_another(rig: Rig) -> None:
    """What a long one has beyond it was not to be of use, and is no sign of a strange model."""
    rig.restored_tokens = 10 * TOKENS
    rig.ask("card", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    rig.rest()
    for number in range(5):
        rig.backend.cache.forget()
        rig.ask("card", f"new {number}", cached=TOKENS // 2)
    assert [what for what, _ in rig.done].count("restore") == 5


def test_a_model_that_reads_again_what_was_restored_is_left_alone(rig: Rig) -> None:
    for number in range(6):
        rig.ask(f"{number}.")
        rig.rest(60)
        rig.backend.cache.forget()
        rig.ask(f"{number}.", "on", cached=0)
        rig.backend.cache.forget()
    assert [what for what, _ in rig.done].count("restore") == 3
