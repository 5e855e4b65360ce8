from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from heartcode.routing.backend import Backend
from heartcode.routing.served_model import ServedModel
from heartcode.routing.throughput import Throughput
from heartcode.routing.unit_signs import UnitSigns
from heartcode.upstream.identity import Identity, Told
from heartcode.upstream.usage import Usage
from heartcode.warm import sealed
from heartcode.warm.kept_speeds import FILE, KeptSpeeds

IDENTITY = Identity(told=Told(n_ctx=8192, names=frozenset({"stheno"})), samples="5a" * 32)
OTHER = replace(IDENTITY, samples="a5" * 32)
ANSWER = Usage(evaluated=9000, cached=0, generated=600, prompt_s=30, decode_s=50)
SETTINGS = [["GPU-1"], 2, [0.0, 0.0]]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """The proxy of a rig with two backends, from its start on."""

    def __init__(self, directory: Path, *, settings: object = SETTINGS) -> None:
        self.clock = Clock()
        rig = Throughput()
        self.backends = [self._backend(directory, rig, number) for number in range(2)]
        self.speeds = KeptSpeeds(
            directory, dict.fromkeys(self.backends, settings), clock=self.clock
        )
        self.speeds.recall()

    def _backend(self, directory: Path, rig: Throughput, number: int) -> Backend:
        url = f"http://127.0.0.1:{number + 1}"
        signs = UnitSigns(directory, number)
        served = ServedModel(f"127.0.0.1:{number + 1}", names=("stheno",), signs=signs)
        backend = Backend(url, rig_throughput=rig, served=served)
        backend.throughput.start_with(prompt=900, decode=60)
        return backend

    def say(self, identity: Identity = IDENTITY) -> Throughput:
        """Let the first one say what it serves; return its speeds."""
        self.backends[0].served.note(identity, 0)
        return self.backends[0].throughput


@pytest.fixture(autouse=True)
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="heartcode.backends")
    return caplog


def told(lines: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in lines.messages if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def learnt(directory: Path) -> Throughput:
    """Let a proxy learn something, and end; return what it has learnt."""
    rig = Rig(directory)
    speeds = rig.say()
    for _ in range(20):
        speeds.learn(ANSWER)
    speeds.writing.learn(4e9, 10)
    speeds.reading.learn(9e9, 10)
    speeds.state_bytes.learn(7e9, 100_000)
    rig.speeds.finish()
    return speeds


def test_a_proxy_goes_on_with_what_the_one_before_has_learnt(
    tmp_path: Path, lines: pytest.LogCaptureFixture
) -> None:
    before = learnt(tmp_path)
    rig = Rig(tmp_path)
    assert rig.backends[0].throughput.prompt.value == pytest.approx(900, rel=0.05)
    now = rig.say()
    assert now.learnt() == before.learnt()
    assert now.prompt.value == pytest.approx(300, rel=0.02)
    assert now.decode.value == pytest.approx(12, rel=0.1)
    assert now.writing.value == pytest.approx(4e8, rel=0.05)
    assert now.reading.value == pytest.approx(9e8, rel=0.05)
    (line,) = told(lines, "speeds_recalled")
    assert (line["backend"], line["prompt"]) == ("127.0.0.1:1", round(now.prompt.value, 1))


def test_the_file_is_for_its_owner_alone_and_has_no_word_of_a_prompt(tmp_path: Path) -> None:
    learnt(tmp_path)
    path = tmp_path / FILE
    assert [each.name for each in tmp_path.iterdir()] == [FILE]
    assert path.stat().st_mode & 0o777 == 0o600
    (one,) = sealed.read(path)["backends"].values()
    assert sorted(one) == ["learnt", "of"]


@pytest.mark.parametrize(
    "identity",
    [
        OTHER,
        replace(IDENTITY, told=replace(IDENTITY.told, n_ctx=4096)),
        replace(IDENTITY, told=replace(IDENTITY.told, ftype="Q6_K")),
        replace(IDENTITY, samples=""),
    ],
    ids=["file", "context", "quantisation", "not sure"],
)
def test_what_was_learnt_of_another_model_is_not_taken_over(
    tmp_path: Path, identity: Identity
) -> None:
    learnt(tmp_path)
    assert Rig(tmp_path).say(identity).prompt.value == pytest.approx(900, rel=0.02)


@pytest.mark.parametrize(
    "settings",
    [
        [["GPU-1", "GPU-2"], 2, [0.0, 0.0]],
        [["GPU-2"], 2, [0.0, 0.0]],
        [["GPU-1"], 4, [0.0, 0.0]],
        [["GPU-1"], 2, [310.5, 24.0]],
    ],
    ids=["more cards", "another card", "slots", "measured anew"],
)
def test_what_was_learnt_with_other_settings_is_not_taken_over(
    tmp_path: Path, settings: object
) -> None:
    learnt(tmp_path)
    assert Rig(tmp_path, settings=settings).say().prompt.value == pytest.approx(900, rel=0.02)


def test_another_kind_of_kv_cache_is_learnt_anew(tmp_path: Path) -> None:
    learnt(tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "0.kv").write_text("f16 on\n")
    assert Rig(tmp_path).say().prompt.value == pytest.approx(900, rel=0.02)


def test_a_model_that_changes_under_the_proxy_is_learnt_anew(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    speeds = rig.say()
    for _ in range(20):
        speeds.learn(ANSWER)
    rig.backends[0].served.forget()  # it has failed, and is back
    rig.say()
    assert speeds.prompt.value == pytest.approx(300, rel=0.02)
    rig.say(OTHER)
    assert speeds.prompt.value == pytest.approx(900, rel=0.02)
    speeds.learn(ANSWER)
    rig.speeds.finish()
    assert Rig(tmp_path).say(OTHER).learnt() == speeds.learnt()


def test_a_model_that_gets_no_requests_is_none_to_learn_of(tmp_path: Path) -> None:
    """As between a llama-server's restart and the reload of a proxy that knows of it."""
    learnt(tmp_path)
    rig = Rig(tmp_path)
    rig.say(replace(OTHER, told=Told(n_ctx=8192, names=frozenset({"lumimaid"}))))
    rig.speeds.finish()
    assert Rig(tmp_path).say().prompt.value == pytest.approx(300, rel=0.02)


def test_a_backend_that_is_away_is_not_forgotten(tmp_path: Path) -> None:
    learnt(tmp_path)
    rig = Rig(tmp_path)
    rig.backends[1].served.note(OTHER, 0)
    rig.backends[1].throughput.learn(ANSWER)
    rig.speeds.finish()
    assert Rig(tmp_path).say().prompt.value == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"half", "it was cut or changed"),
        ({"version": 2, "backends": {}}, "it is of version 2, not 1"),
        ([], "it is of version None, not 1"),
        ({"version": 1}, "it says nothing of backends"),
        ({"version": 1, "backends": {"127.0.0.1:1": 1}}, "nothing of a backend's speed"),
        (
            {"version": 1, "backends": {"127.0.0.1:1": {"of": "", "learnt": {"prompt": [1]}}}},
            "nothing of a backend's speed",
        ),
        (
            {"version": 1, "backends": {"127.0.0.1:1": {"of": "", "learnt": {"prompt": [0, 1]}}}},
            "nothing of a backend's speed",
        ),
    ],
)
def test_a_damaged_file_is_dropped_with_one_line(
    tmp_path: Path, lines: pytest.LogCaptureFixture, content: object, why: str
) -> None:
    if isinstance(content, bytes):
        (tmp_path / FILE).write_bytes(content)
    else:
        sealed.write(tmp_path / FILE, content)
    rig = Rig(tmp_path)
    assert rig.say().prompt.value == pytest.approx(900, rel=0.02)
    (line,) = told(lines, "speeds_dropped")
    assert why in line["why"]
    assert not (tmp_path / FILE).exists()
    rig.say().learn(ANSWER)
    rig.speeds.finish()
    assert Rig(tmp_path).say().learnt() == rig.say().learnt()


def test_sums_that_cannot_be_are_none(tmp_path: Path, lines: pytest.LogCaptureFixture) -> None:
    learnt(tmp_path)
    kept = sealed.read(tmp_path / FILE)
    absurd: tuple[list[Any], ...] = ([float("nan"), 1], [1, 1e300], [10**400, 1], ["1", None])
    for sums in absurd:
        kept["backends"]["127.0.0.1:1"]["learnt"]["decode"] = sums
        sealed.write(tmp_path / FILE, kept)
        assert Rig(tmp_path).say().decode.value == pytest.approx(60, rel=0.02)
    assert len(told(lines, "speeds_dropped")) == len(absurd)


def test_it_is_written_soon_and_then_every_now_and_then(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.speeds.keep()
    assert not (tmp_path / FILE).exists()  # nothing is known yet

    def written() -> Any:
        rig.speeds.keep()
        return sealed.read(tmp_path / FILE)

    speeds = rig.say()
    rig.speeds.keep()
    assert not (tmp_path / FILE).exists()  # but what the settings say
    speeds.learn(ANSWER)
    first = written()
    speeds.learn(ANSWER)
    assert written() == first
    rig.clock.now += 30
    second = written()
    assert second != first
    (tmp_path / FILE).unlink()
    rig.clock.now += 30
    rig.speeds.keep()
    assert not (tmp_path / FILE).exists()  # nothing is new


def test_a_retired_proxy_writes_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.say().learn(ANSWER)
    rig.speeds.retire()
    rig.speeds.keep()
    rig.speeds.finish()
    assert not (tmp_path / FILE).exists()


def test_a_full_disk_is_told_once_and_tried_again(
    tmp_path: Path, lines: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    rig = Rig(tmp_path)
    rig.say().learn(ANSWER)
    with monkeypatch.context() as patched:
        patched.setattr(sealed, "write", is_full)
        for _ in range(3):
            rig.clock.now += 30
            rig.speeds.keep()
    assert len(told(lines, "speeds_not_kept")) == 1
    rig.clock.now += 30
    rig.speeds.keep()
    assert (tmp_path / FILE).exists()
