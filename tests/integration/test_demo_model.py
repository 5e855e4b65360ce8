"""The demo model in a real llama-server, with the flags that a rig gives it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from heartcode_models.demo import counting as demo

from tests.integration.processes import Llama

HEALTH_CHECK = Path(__file__).parents[2] / "scripts/health_check.sh"
LAST_NUMBER = 12  # of the short model
USER = {"role": "user", "content": "Count, please. Not 99."}


def numbers(first: int, last: int) -> str:
    return "".join(f" {number}" for number in range(first, last + 1))


@contextmanager
def running_llama(model: Path) -> Iterator[Llama]:
    llama = Llama(model.parent, model=model)
    try:
        yield llama
    finally:
        llama.kill()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    model = tmp_path_factory.mktemp("model") / "counting.gguf"
    demo.write_model(model)
    with running_llama(model) as server:
        yield server


@pytest.fixture(scope="module")
def short_llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    model = tmp_path_factory.mktemp("short") / "short.gguf"
    demo.write_model(model, numbers=LAST_NUMBER)
    with running_llama(model) as server:
        yield server


def test_each_number_is_one_token_and_the_text_comes_back(llama: Llama) -> None:
    text = "Say: 1 2 3 10 99 4096, and\n5  6 01 é"
    tokens = llama.ask("/tokenize", content=text)["tokens"]
    for number in (1, 2, 3, 10, 99, 4096, 6):
        assert demo.number_id(number) in tokens
    assert llama.ask("/detokenize", tokens=tokens)["content"] == text


def test_a_chat_stream_counts_to_50_one_token_per_event(llama: Llama) -> None:
    events = llama.events("/v1/chat/completions", messages=[USER], max_tokens=50)
    deltas = [event["choices"][0]["delta"].get("content") for event in events]
    assert [delta for delta in deltas if delta] == [f" {number}" for number in range(1, 51)]


def test_a_completion_stream_counts_to_3000(llama: Llama) -> None:
    events = list(llama.events("/v1/completions", prompt=" 7", max_tokens=2993))
    text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
    assert text == numbers(8, 3000)
    assert events[-1]["timings"]["predicted_n"] == 2993


def test_an_unfinished_answer_is_continued_from_the_cache(llama: Llama) -> None:
    llama.ask("/v1/chat/completions", messages=[USER], max_tokens=3)
    unfinished = {"role": "assistant", "content": numbers(1, 3)}
    answer = llama.ask("/v1/chat/completions", messages=[USER, unfinished], max_tokens=4)
    assert answer["choices"][0]["message"]["content"] == numbers(1, 7)
    assert answer["usage"]["completion_tokens"] == 4
    # llama-server computes the last token of a prompt again, to have something to go on from.
    assert answer["timings"]["prompt_n"] == 1


def test_a_second_turn_finds_the_first_one_in_the_cache(llama: Llama) -> None:
    first = llama.ask("/v1/chat/completions", messages=[USER], max_tokens=20)
    answer = {"role": "assistant", "content": numbers(1, 20)}
    again = {"role": "user", "content": "Again."}
    second = llama.ask("/v1/chat/completions", messages=[USER, answer, again], max_tokens=5)
    assert second["choices"][0]["message"]["content"] == numbers(1, 5)
    assert second["timings"]["cache_n"] >= first["usage"]["total_tokens"] - 1


@pytest.mark.parametrize(
    "sampling",
    [
        {},  # llama-server's defaults: temperature 0.8, top_k 40, top_p 0.95, min_p 0.05
        {"temperature": 2, "top_k": 0, "top_p": 1, "min_p": 0},
        {"temperature": 1, "repeat_penalty": 1.3, "presence_penalty": 1, "frequency_penalty": 1},
        {"temperature": 1.2, "xtc_probability": 0.5, "dry_multiplier": 0.8},
        {"temperature": 0},
    ],
    ids=lambda sampling: ",".join(sampling) or "defaults",
)
def test_any_sampling_counts(llama: Llama, sampling: dict[str, object]) -> None:
    answer = llama.ask("/v1/chat/completions", messages=[USER], max_tokens=500, **sampling)
    assert answer["choices"][0]["message"]["content"] == numbers(1, 500)
    assert answer["choices"][0]["finish_reason"] == "length"


def test_after_the_last_number_the_answer_ends(short_llama: Llama) -> None:
    answer = short_llama.ask("/v1/chat/completions", messages=[USER])
    assert answer["choices"][0]["message"]["content"] == numbers(1, LAST_NUMBER)
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_health_check_passes(llama: Llama) -> None:
    done = subprocess.run([HEALTH_CHECK, llama.url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "16 events" in done.stdout


def test_dead_weight_makes_it_slow_and_it_still_counts(
    llama: Llama, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model = tmp_path / "slow.gguf"
    demo.write_model(model, dead_weight_mib=256)
    quick = llama.ask("/v1/completions", prompt=" 7", max_tokens=40)
    with running_llama(model) as slow_llama:
        slow = slow_llama.ask("/v1/completions", prompt=" 7", max_tokens=40)
    assert slow["choices"][0]["text"] == quick["choices"][0]["text"] == numbers(8, 47)
    # How much slower is the machine's affair; the numbers are for the reader of the report.
    for name, answer in (("without", quick), ("256 MiB", slow)):
        speed = answer["timings"]["predicted_per_second"]
        record_property(f"tokens per second, {name} dead weight", speed)
        print(f"{name} dead weight: {speed:.0f} tokens/s")
