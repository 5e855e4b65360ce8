from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from heartcode.routing.prefix_cache import MAX_HOST_SEQUENCES, Match, PrefixCache
from heartcode.routing.prompt_hash import MAX_BLOCKS, Prompt
from hypothesis import given
from hypothesis import strategies as st

MARKUP = 16
SYSTEM = ("system", "You are a pirate. " * 10)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


Message = tuple[str, str]


def prompt_of(messages: list[Message]) -> Prompt:
    return Prompt.of({"messages": [{"role": role, "content": text} for role, text in messages]})


def chars_of(message: Message) -> int:
    role, text = message
    return len(f"{role}\n{text}") + MARKUP


def talk(*texts: str) -> Prompt:
    return prompt_of([(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)])


def run(cache: PrefixCache, prompt: Prompt, *, answer_chars: int = 0) -> Match:
    match = cache.look_up(prompt)
    cache.begin(prompt).end(answer_chars=answer_chars)
    return match


@dataclass
class NaiveServer:
    """llama-server without host memory, with whole texts."""

    slots: list[list[Message]]
    used: list[int] = field(default_factory=list)
    serial: int = 0

    def serve(self, prompt: list[Message], answer: Message) -> int:
        """Return how many characters were in the cache."""
        shared = [self.shared(slot, prompt) for slot in self.slots]
        best = shared.index(max(shared))
        if shared[best] <= 0.1 * sum(map(chars_of, prompt)):
            best = self.used.index(min(self.used))
        self.serial += 1
        self.used[best] = self.serial
        self.slots[best] = [*prompt, answer]
        return shared[best]

    @staticmethod
    def shared(held: list[Message], prompt: list[Message]) -> int:
        same = 0
        for one, other in zip(held, prompt, strict=False):
            if one != other:
                break
            same += chars_of(one)
        return same


TURNS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["go on", "again"])), max_size=30)


@given(st.integers(1, 4), TURNS)
def test_it_knows_what_a_naive_model_knows(slots: int, turns: list[tuple[int, str]]) -> None:
    """Six conversations with a common system prompt take turns; some answers are made again."""
    naive = NaiveServer([[] for _ in range(slots)], used=[0] * slots)
    cache = PrefixCache(slots=slots, clock=Clock())
    talks: dict[int, list[Message]] = {}
    for turn, (number, what) in enumerate(turns):
        messages = talks.setdefault(number, [SYSTEM, ("user", f"This is talk {number}.")])
        if what == "go on" and turn:
            messages += [("assistant", f"answer {number}"), ("user", f"question {turn}")]
        answer = ("assistant", f"answer {number}")
        found = run(cache, prompt_of(messages), answer_chars=chars_of(answer))
        expected = naive.serve(messages, answer)
        # The markup behind the last common message, or the answer that was not asked for, is all
        # that may differ.
        assert abs(found.cached_chars - expected) <= MARKUP


@given(
    st.integers(1, 3),
    st.integers(0, 3000),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 300), st.integers(0, 100))),
)
def test_it_never_holds_more_than_the_server_can(
    slots: int, host_chars: int, requests: list[tuple[str, int, int]]
) -> None:
    cache = PrefixCache(slots=slots, host_chars=host_chars, clock=Clock())
    for letter, length, answer in requests:
        prompt = Prompt.of({"prompt": letter * length})
        found = run(cache, prompt, answer_chars=answer)
        assert 0 <= found.cached_chars <= prompt.chars
        assert found.lost_chars >= 0
        assert sum(sequence.chars for sequence in cache._host) <= host_chars
        assert cache.sequences <= slots + MAX_HOST_SEQUENCES


def test_a_second_turn_finds_prompt_and_answer() -> None:
    cache = PrefixCache(slots=1, clock=Clock())
    assert run(cache, talk("x" * 500), answer_chars=300).cached_chars == 0
    second = talk("x" * 500, "y" * 275, "and then?")
    assert cache.look_up(second).cached_chars == pytest.approx(820, abs=MARKUP)


def test_an_answer_is_found_in_a_text_completion_too() -> None:
    cache = PrefixCache(slots=1, clock=Clock())
    run(cache, Prompt.of({"prompt": "x" * 500}), answer_chars=200)
    second = Prompt.of({"prompt": "x" * 500 + "y" * 200 + "\nUser: and then?"})
    assert cache.look_up(second).cached_chars == 700


def test_the_conversation_unused_for_longest_is_lost() -> None:
    cache = PrefixCache(slots=2, clock=Clock())
    a, b, c = (talk(letter * 500) for letter in "abc")
    for prompt in (a, b, a):
        run(cache, prompt)
    found = run(cache, c)
    assert found.lost_chars == b.chars
    assert cache.look_up(a).cached_chars > 0
    assert cache.look_up(b).cached_chars == 0


def test_busy_slots_are_not_given_away() -> None:
    cache = PrefixCache(slots=2, clock=Clock())
    first = cache.begin(talk("a" * 500))
    assert cache.look_up(talk("a" * 500)).cached_chars == 0  # the other slot
    cache.begin(talk("b" * 500))
    with pytest.raises(RuntimeError):
        cache.begin(talk("c" * 500))
    assert cache.look_up(talk("a" * 500)).cached_chars > 0  # when they become idle
    first.end()
    cache.begin(talk("c" * 500))


def test_host_memory_keeps_what_lost_its_slot_and_gives_it_back() -> None:
    cache = PrefixCache(slots=1, host_chars=1200, clock=Clock())
    a, b, c = (talk(letter * 500) for letter in "abc")
    run(cache, a)
    assert run(cache, b).lost_chars == 0
    assert run(cache, a).cached_chars > 500
    for prompt in (b, c):
        run(cache, prompt)
    run(cache, talk("d" * 500))  # copies of a, b and c are too many
    assert cache.look_up(a).cached_chars == 0
    assert cache.look_up(b).cached_chars > 500


def test_a_wrong_guess_is_corrected() -> None:
    for found, left in ((500, True), (0, False)):
        cache = PrefixCache(slots=1, host_chars=5000, clock=Clock())
        a, b, c = (talk(letter * 500) for letter in "abc")
        for prompt in (a, b, c):
            run(cache, prompt)
        place = cache.begin(b)  # from host memory, where a is older and c is younger
        place.found(found)
        place.end()
        assert (cache.look_up(a).cached_chars > 0) == left
        assert cache.look_up(c).cached_chars > 0


def test_a_copy_for_which_another_one_has_to_go_is_a_loss() -> None:
    cache = PrefixCache(slots=1, host_chars=1200, clock=Clock())
    losses = [run(cache, talk(letter * 500)).lost_chars for letter in "abcd"]
    assert losses[:3] == [0, 0, 0]
    assert losses[3] > 300


def test_what_the_slot_has_is_not_exchanged_for_a_better_copy() -> None:
    """llama-server looks for a copy only when it would overwrite more than half of the slot."""
    cache = PrefixCache(slots=1, host_chars=9000, clock=Clock())
    begin = "a" * 640
    run(cache, Prompt.of({"prompt": begin + "b" * 800}))
    run(cache, Prompt.of({"prompt": begin + "d" * 600}))
    assert len(cache._host) == 1
    found = run(cache, Prompt.of({"prompt": begin + "b" * 800}))
    assert found.cached_chars == 640


def test_a_restart_loses_everything_and_running_requests_still_end() -> None:
    cache = PrefixCache(slots=1, host_chars=5000, clock=Clock())
    run(cache, talk("a" * 500))
    place = cache.begin(talk("b" * 500))
    cache.forget()
    place.end(answer_chars=10)
    assert cache.sequences == 0
    assert cache.look_up(talk("a" * 500)) == Match(lost_idle_s=1.0)


def test_endless_prompts_take_bounded_memory() -> None:
    cache = PrefixCache(slots=1, host_chars=10**9, clock=Clock())
    for number in range(MAX_HOST_SEQUENCES + 5):
        run(cache, Prompt.of({"prompt": f"{number} " * 300_000}))
    assert cache.sequences == MAX_HOST_SEQUENCES + 1
    assert all(len(sequence.blocks) == MAX_BLOCKS for sequence in cache._host)


def test_a_request_that_begins_anew_finds_nothing_and_is_there_afterwards() -> None:
    cache = PrefixCache(slots=2)
    run(cache, talk("a" * 400))
    place = cache.begin(talk("a" * 400, "b", "c"))
    assert place.match.cached_chars > 0
    run(cache, talk("x" * 400))
    place.begins_anew()
    assert place.match.cached_chars == 0
    place.end(answer_chars=10)
    assert cache.sequences == 1
    assert cache.look_up(talk("a" * 400, "b", "c", "d", "e")).cached_chars > 400


@pytest.mark.parametrize(
    ("is_named", "found", "is_left"),
    [(True, 0, False), (True, 4, False), (True, 60, True), (False, 0, True)],
)
def test_a_named_slot_that_holds_nothing_any_more_says_that_none_does(
    *, is_named: bool, found: int, is_left: bool
) -> None:
    """Of a slot that was not named it says nothing: the request may have gone into another one."""
    cache = PrefixCache(slots=3, host_chars=5000, clock=Clock())
    for letter in "abc":
        place = cache.begin(talk(letter * 500))
        if is_named:
            place.is_asked_for()
        place.end(answer_chars=10)
    busy = cache.begin(talk("c" * 500, "answer", "more"))
    place = cache.begin(talk("a" * 500, "answer", "more"))
    if is_named:
        place.is_asked_for()
    place.found(found)
    place.end(answer_chars=10)
    busy.end(answer_chars=10)
    assert (cache.look_up(talk("b" * 500)).cached_chars > 0) == is_left
    # These were asked for since.
    for letter in "ac":
        assert cache.look_up(talk(letter * 500, "answer", "more")).cached_chars > 500


def test_what_a_file_has_brought_says_nothing_of_what_was_there() -> None:
    cache = PrefixCache(slots=2, clock=Clock())
    for letter in "ab":
        place = cache.begin(talk(letter * 500))
        place.is_asked_for()
        place.end()
    place = cache.begin(talk("a" * 500, "answer", "more"))
    place.is_asked_for()
    place.is_restored()
    place.found(0)  # as with a model of which a file holds too little
    place.end()
    assert cache.look_up(talk("b" * 500)).cached_chars > 0
