from __future__ import annotations

import pytest
from heartcode.routing.throughput import LearntRatio, Lengths, Throughput
from heartcode.runtime.runtime import Runtime
from heartcode.settings import Settings
from heartcode.upstream.usage import Usage
from hypothesis import given
from hypothesis import strategies as st

POSITIVE = st.floats(0.001, 1e6)
ODD = st.floats(allow_nan=True, allow_infinity=True)


@given(POSITIVE, st.lists(st.tuples(POSITIVE, POSITIVE)))
def test_the_value_lies_among_prior_and_measurements(
    prior: float, measured: list[tuple[float, float]]
) -> None:
    ratio = LearntRatio(prior, weight=1, memory=100)
    for numerator, denominator in measured:
        ratio.learn(numerator, denominator)
    seen = [prior, *(numerator / denominator for numerator, denominator in measured)]
    assert min(seen) * 0.999 <= ratio.value <= max(seen) * 1.001


@given(st.lists(st.tuples(ODD, ODD)))
def test_nonsense_does_no_harm(measured: list[tuple[float, float]]) -> None:
    ratio = LearntRatio(300.0, weight=1, memory=100)
    for numerator, denominator in measured:
        ratio.learn(numerator, denominator)
    assert 0 < ratio.value < 1e12


def test_it_learns_and_follows_a_change() -> None:
    ratio = LearntRatio(300.0, weight=0.5, memory=60)
    for _ in range(10):
        ratio.learn(1000, 5)
    assert ratio.value == pytest.approx(200, rel=0.05)
    for _ in range(60):
        ratio.learn(500, 5)  # the card got hot
    assert ratio.value == pytest.approx(100, rel=0.05)


def test_bytes_of_large_files_are_learnt_as_well() -> None:
    """Those of a group's model: see `warm`."""
    ratio = LearntRatio(200e6, weight=0.1, memory=10)
    ratio.learn(40e9, 1000)
    assert ratio.value == pytest.approx(40e6, rel=0.01)


def test_a_few_tokens_weigh_little() -> None:
    ratio = LearntRatio(300.0, weight=0.5, memory=60)
    ratio.learn(3000, 10)
    for _ in range(10):
        ratio.learn(1, 0.04)  # one token at the speed of decoding
    assert ratio.value == pytest.approx(290, rel=0.02)


def test_an_unknown_backend_is_taken_to_be_like_the_others() -> None:
    rig = Throughput()
    known, unknown = Throughput(rig), Throughput(rig)
    for _ in range(5):
        known.learn(Usage(evaluated=6000, cached=0, generated=400, prompt_s=10, decode_s=10))
    assert unknown.prompt.value == pytest.approx(known.prompt.value, rel=0.05)
    assert unknown.decode.value == pytest.approx(40, rel=0.1)
    assert Throughput().prompt.value == 300


def test_speeds_measured_before_count_until_answers_tell() -> None:
    rig = Throughput()
    tuned, unknown = Throughput(rig), Throughput(rig)
    tuned.start_with(prompt=900, decode=60)
    unknown.start_with(prompt=0, decode=0)
    assert tuned.prompt.value == pytest.approx(900, rel=0.02)
    assert tuned.decode.value == pytest.approx(60, rel=0.02)
    assert unknown.prompt.value == pytest.approx(900, rel=0.02)  # like the rig's others
    for _ in range(30):
        tuned.learn(Usage(evaluated=3000, cached=0, generated=600, prompt_s=10, decode_s=60))
    assert tuned.prompt.value == pytest.approx(300, rel=0.1)
    assert tuned.decode.value == pytest.approx(10, rel=0.1)


def test_files_are_read_as_fast_as_they_are_written_until_that_was_seen() -> None:
    speeds = Throughput()
    speeds.writing.learn(5e9, 10)
    assert speeds.reading.value == speeds.writing.value
    speeds.reading.learn(2e9, 1)
    assert speeds.reading.value > 1.8e9
    assert speeds.writing.value < 0.51e9


def test_what_was_learnt_goes_on_elsewhere() -> None:
    rig = Throughput()
    speeds, other = Throughput(), Throughput(rig)
    speeds.start_with(prompt=900, decode=0)
    speeds.learn(Usage(evaluated=3000, cached=0, generated=600, prompt_s=10, decode_s=60))
    other.start_with(prompt=900, decode=60)
    other.go_on_with(speeds.learnt())
    assert other.learnt() == speeds.learnt()
    assert sorted(speeds.learnt()) == ["decode", "prompt"]
    assert Throughput(rig).decode.value < 50  # what nothing is known of is like the others
    other.start_anew()
    assert other.prompt.value == pytest.approx(900, rel=0.02)
    assert other.decode.value == pytest.approx(60, rel=0.02)


def test_a_rig_starts_with_the_speeds_of_its_settings() -> None:
    settings = Settings.from_env(
        {
            "HEARTCODE_BACKENDS": "http://127.0.0.1:1,http://127.0.0.1:2",
            "HEARTCODE_PROMPT_SPEEDS": "900,100",
            "HEARTCODE_DECODE_SPEEDS": "60,0",
        }
    )
    fast, slow = Runtime.from_settings(settings).pool.backends
    assert fast.throughput.prompt.value == pytest.approx(900, rel=0.02)
    assert slow.throughput.prompt.value == pytest.approx(100, rel=0.2)
    assert fast.throughput.decode.value == pytest.approx(60, rel=0.02)
    assert slow.throughput.decode.value == pytest.approx(60, rel=0.02)


def test_lengths() -> None:
    lengths = Lengths()
    for _ in range(100):
        usage = Usage(evaluated=200, cached=800, generated=50)
        lengths.learn(usage, prompt_chars=3000)
    assert lengths.tokens_per_char.value == pytest.approx(1 / 3, rel=0.01)
    assert lengths.answer_of_at_most(None) == pytest.approx(50, rel=0.2)
    assert lengths.answer_of_at_most(7) == 7
