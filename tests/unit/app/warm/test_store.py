from __future__ import annotations

import os
import time
from array import array
from pathlib import Path

import pytest
from heartcode.routing.known_sequence import KnownSequence
from heartcode.routing.prompt_hash import Prompt
from heartcode.warm import sealed
from heartcode.warm import store as module
from heartcode.warm.store import Entry, Store, StoreError

KEY, OTHER = "a" * 32, "b" * 32
STATE = b"what llama-server has written" * 100


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(tmp_path: Path, clock: Clock, *, limit: int = 10**9, keep_s: float = 3600.0) -> Store:
    return Store.open(tmp_path / "kept", limit_bytes=limit, keep_s=keep_s, clock=clock)


def prompt(store: Store, *said: str) -> Prompt:
    messages = [{"role": "user", "content": text * 40} for text in said]
    return Prompt.of({"messages": messages}, secret=store.secret)


def sequence_of(asked: Prompt) -> KnownSequence:
    return KnownSequence(asked.blocks, asked.chars, asked.open_ended, answer_chars=20)


def kept(store: Store, asked: Prompt, *, key: str = KEY, state: bytes = STATE) -> Entry:
    name = store.new_name()
    (store._directory / store.part(name)).write_bytes(state)
    entry = store.commit(name, key=key, sequence=sequence_of(asked), tokens=500, size=len(state))
    store.add(entry)
    store.secure(entry)
    return entry


def test_what_goes_on_with_a_conversation_finds_it_and_nothing_else_does(
    tmp_path: Path, clock: Clock
) -> None:
    store = opened(tmp_path, clock)
    entry = kept(store, prompt(store, "a", "b"))
    found = store.best(KEY, prompt(store, "a", "b", "c"))
    assert found is not None
    assert found.entry is entry
    assert found.chars == entry.sequence.chars
    half = store.best(KEY, prompt(store, "a", "x"))
    assert half is not None
    assert 0 < half.chars < entry.sequence.chars
    assert store.best(KEY, prompt(store, "x", "b")) is None
    assert store.best(OTHER, prompt(store, "a", "b", "c")) is None
    assert store.is_intact(entry)


def test_of_conversations_that_begin_alike_the_shortest_is_read(
    tmp_path: Path, clock: Clock
) -> None:
    """As new chats with the card of a character do."""
    store = opened(tmp_path, clock)
    kept(store, prompt(store, "a", "b", "c"), state=STATE * 3)
    short = kept(store, prompt(store, "a", "d"), state=STATE)
    kept(store, prompt(store, "a", "e", "f"), state=STATE * 2)
    found = store.best(KEY, prompt(store, "a", "x"))
    assert found is not None
    assert found.entry is short


def test_another_process_finds_it_too_and_has_the_same_secret(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    other = opened(tmp_path, clock)
    assert other.secret == store.secret
    entry = kept(store, prompt(store, "a"))
    other.refresh()
    found = other.best(KEY, prompt(other, "a", "b"))
    assert found is not None
    assert (found.entry.name, found.entry.tokens) == (entry.name, entry.tokens)
    assert other.is_intact(found.entry)
    store.drop(entry)
    other.refresh()
    assert len(other) == 0


def test_secrets_of_two_directories_differ(tmp_path: Path, clock: Clock) -> None:
    one = Store.open(tmp_path / "one", limit_bytes=1, keep_s=1, clock=clock)
    two = Store.open(tmp_path / "two", limit_bytes=1, keep_s=1, clock=clock)
    assert one.secret != two.secret
    assert prompt(one, "a").blocks != prompt(two, "a").blocks


def test_a_later_turn_takes_the_place_of_the_former(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    first = kept(store, prompt(store, "a"))
    apart = kept(store, prompt(store, "b"))
    second = kept(store, prompt(store, "a", "answer", "c"))
    assert not store.is_there(first)
    assert store.is_there(apart)
    assert store.is_there(second)
    assert len(store) == 2


def test_a_file_that_was_cut_or_changed_is_not_intact(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    entry = kept(store, prompt(store, "a"))
    path = store._directory / entry.file
    path.write_bytes(STATE[:-1])
    assert not store.is_there(entry)
    assert not store.is_intact(entry)
    path.write_bytes(STATE[:-1] + b"?")
    assert store.is_there(entry)
    assert not store.is_intact(entry)
    path.write_bytes(STATE)
    assert store.is_intact(entry)
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert not store.is_there(entry)
    assert not store.is_intact(entry)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"tokens": 500', b'"tokens": 501'), (KEY.encode(), OTHER.encode()), (b"\n", b"")],
)
def test_a_word_that_was_changed_is_none(
    tmp_path: Path, clock: Clock, old: bytes, new: bytes
) -> None:
    store = opened(tmp_path, clock)
    entry = kept(store, prompt(store, "a"))
    assert len(opened(tmp_path, clock)) == 1
    path = store._directory / f"{entry.name}.json"
    assert old in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    assert len(opened(tmp_path, clock)) == 0


def test_the_word_of_one_file_is_not_that_of_another(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    one = kept(store, prompt(store, "a"))
    other = kept(store, prompt(store, "b"))
    (store._directory / f"{one.name}.json").replace(store._directory / f"{other.name}.json")
    assert len(opened(tmp_path, clock)) == 0


def test_a_file_of_another_length_than_told_is_not_kept(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    name = store.new_name()
    (store._directory / store.part(name)).write_bytes(STATE[:-1])
    asked = sequence_of(prompt(store, "a"))
    with pytest.raises(StoreError):
        store.commit(name, key=KEY, sequence=asked, tokens=1, size=len(STATE))
    assert [path.name for path in store._directory.iterdir()] == ["secret"]


def test_nothing_was_written_at_all(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    asked = sequence_of(prompt(store, "a"))
    with pytest.raises(StoreError):
        store.commit(store.new_name(), key=KEY, sequence=asked, tokens=1, size=1)


def test_the_oldest_makes_room(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, limit=3 * len(STATE))
    entries = []
    for text in "abc":
        clock.now += 1
        entries.append(kept(store, prompt(store, text)))
    clock.now += 1
    store.touch(entries[0])
    assert store.room_for(len(STATE))
    assert [store.is_there(entry) for entry in entries] == [True, False, True]
    assert store.size == 2 * len(STATE)
    assert not store.room_for(3 * len(STATE) + 1)
    assert len(store) == 2


def test_others_keep_their_room(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path, clock)
    kept(store, prompt(store, "a"))
    monkeypatch.setattr(Store, "_free", lambda _: module.LEFT_FREE + 10)
    assert store.room_for(10)
    assert len(store) == 1
    assert not store.room_for(11)
    assert len(store) == 0


def test_what_nobody_has_used_for_long_goes(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock, keep_s=100)
    old, young = kept(store, prompt(store, "a")), kept(store, prompt(store, "b"))
    clock.now += 90
    store.touch(young)
    clock.now += 20
    store.refresh()
    assert not store.is_there(old)
    assert store.is_there(young)


def test_the_rest_of_what_was_broken_off_goes_in_time(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    entry = kept(store, prompt(store, "a"))
    rest = [store._directory / name for name in ("1.part", "2.kv", "3.json.part")]
    for path in rest:
        path.write_bytes(b"?")
        os.utime(path, (clock.now, clock.now))
    stranger = store._directory / "notes"
    stranger.write_text("")
    store.refresh()
    assert all(path.exists() for path in rest)
    clock.now += 1000
    (store._directory / "another.part").write_bytes(b"")  # something has changed
    store.refresh()
    assert not any(path.exists() for path in rest)
    assert stranger.exists()
    assert store.is_intact(entry)


def test_files_are_for_their_owner_alone(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    kept(store, prompt(store, "a"))
    assert {path.stat().st_mode & 0o777 for path in store._directory.iterdir()} == {0o600}
    assert store._directory.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_cannot_be_used_says_so(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "kept").write_text("")
    with pytest.raises(StoreError):
        opened(tmp_path, clock)
    (tmp_path / "kept").unlink()
    opened(tmp_path, clock)
    (tmp_path / "kept" / "secret").write_bytes(b"short")
    with pytest.raises(StoreError, match="holds no secret"):
        opened(tmp_path, clock)


def test_a_word_of_nonsense_under_a_true_seal_is_none(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    name = store.new_name()
    (store._directory / f"{name}.kv").write_bytes(b"")
    words: tuple[object, ...] = ([], {}, {"blocks": 1}, {"blocks": "AAAA"})
    for word in words:
        sealed.write(store._directory / f"{name}.json", word, key=store.secret)
        assert len(opened(tmp_path, clock)) == 0


def test_a_sequence_goes_on_with_its_own_beginning_alone() -> None:
    def sequence(*blocks: int, is_open: bool = False) -> KnownSequence:
        return KnownSequence(array("q", blocks), 64 * len(blocks), is_open)

    assert sequence(1, 2, 3).goes_on_with(sequence(1, 2))
    assert sequence(1, 2).goes_on_with(sequence(1, 2))
    assert not sequence(1, 2).goes_on_with(sequence(1, 2, 3))
    assert sequence(1, 9, 3).goes_on_with(sequence(1, 2, is_open=True))
    assert not sequence(9, 2).goes_on_with(sequence(1, is_open=True))


def test_what_is_not_secured_yet_serves_this_process_alone(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    name = store.new_name()
    (store._directory / store.part(name)).write_bytes(STATE)
    asked = prompt(store, "a")
    entry = store.commit(name, key=KEY, sequence=sequence_of(asked), tokens=500, size=len(STATE))
    store.add(entry)
    store.refresh()
    assert store.best(KEY, prompt(store, "a", "b")) is not None
    assert len(opened(tmp_path, clock)) == 0
    store.secure(entry)
    assert len(opened(tmp_path, clock)) == 1


def test_what_had_to_go_before_it_was_secured_leaves_nothing(tmp_path: Path, clock: Clock) -> None:
    store = opened(tmp_path, clock)
    name = store.new_name()
    (store._directory / store.part(name)).write_bytes(STATE)
    asked = sequence_of(prompt(store, "a"))
    entry = store.commit(name, key=KEY, sequence=asked, tokens=500, size=len(STATE))
    store.add(entry)
    store._forget(entry)
    store.secure(entry)
    assert [path.name for path in store._directory.iterdir()] == ["secret"]
    with pytest.raises(StoreError):
        store.secure(entry)
