"""What the benchmark of the relay counts, and what it says where it cannot measure."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
from pathlib import Path
from typing import cast

import pytest

import tools.bench_relay as bench
from tools.bench.load import AtATime, Outcome, Work, lateness_s, run
from tools.bench.measuring import allow_many_connections
from tools.bench.relays import HeartCode, HeartCodeBefore, Relay, build_go
from tools.bench.slow_core import SlowCore, SlowCoreError, period_and_quota_us
from tools.bench.slow_rig import Step, carried, report

ROOT = Path(__file__).parents[3]


def test_tokens_are_late_against_the_one_that_came_in_best_time() -> None:
    # The second comes with the next step of decoding, soon after the first.
    assert lateness_s([0.5, 0.51, 0.61, 0.74, 0.81], 0.1) == pytest.approx([0, 0, 0.03, 0])


def test_one_token_is_never_late() -> None:
    assert lateness_s([0.5], 0.1) == []
    assert lateness_s([], 0.1) == []


def test_streams_are_counted_while_they_run() -> None:
    streams = AtATime()
    streams.begin()
    streams.begin()
    streams.end()
    streams.begin()
    assert (streams.now, streams.most) == (2, 2)


def event(number: int) -> bytes:
    return b'data: {"choices":[{"delta":{"content":" %d"}}]}\n\n' % number


def outcome(pieces: list[bytes], *, streams: int = 1) -> Outcome:
    """Run clients that want three tokens against a server that sends these pieces and hangs up.

    No stream is answered before all have asked.
    """

    async def measure() -> Outcome:
        asked: list[asyncio.StreamWriter] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            asked.append(writer)
            if len(asked) == streams:
                for each in asked:
                    each.write(pieces[0])
                    await each.drain()
                for each in asked:
                    each.write(b"".join(pieces[1:]))
                    each.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        work = Work(url=url, streams=streams, tokens=3, rate=1000, start_within_s=0)
        async with server:
            return await run(work)

    return asyncio.run(measure())


def test_a_whole_stream_has_no_error() -> None:
    seen = outcome([event(1), event(2) + event(3), b"data: [DONE]\n\n"])
    assert (len(seen.first_token_s), seen.errors, seen.at_a_time) == (1, [], 1)


def test_a_token_that_is_missing_is_an_error() -> None:
    seen = outcome([event(1), event(3), b"data: [DONE]\n\n"])
    assert seen.first_token_s == []
    assert "token 3 came where 2 should" in seen.errors[0]


def test_an_end_that_comes_too_early_is_an_error() -> None:
    assert "the end came too early" in outcome([event(1), b"data: [DONE]\n\n"]).errors[0]
    assert "hung up after 2 tokens" in outcome([event(1), event(2)]).errors[0]
    assert "hung up after 0 tokens" in outcome([b""]).errors[0]


def step(per_card: int, *, late_s: float, cpu_s: float = 1.2) -> Step:
    return Step(streams=12 * per_card, cpu_s=cpu_s, late_s=late_s, first_token_s=0.002)


def test_a_relay_carries_what_it_kept_up_with() -> None:
    assert carried([step(1, late_s=0.001), step(4, late_s=0.05), step(8, late_s=0.051)], 20) == 960
    assert carried([step(1, late_s=0.1)], 20) == 0
    # In time for now, with half as much again as there is.
    assert carried([step(1, late_s=0.001), step(4, late_s=0.02, cpu_s=1.8)], 20) == 240


def test_the_part_of_a_core_follows_from_the_tokens() -> None:
    # 12 streams of 120 tokens take 14.4 ms of CPU time: 10 µs each, 240 of them a second.
    assert step(1, late_s=0, cpu_s=0.0144).core == pytest.approx(0.0024)


def test_the_report_says_what_twelve_cards_need() -> None:
    told = report(
        {
            "nginx": [step(1, late_s=0.001, cpu_s=0.072)],
            "heartcode": [step(1, late_s=0.004, cpu_s=0.144), step(4, late_s=0.2)],
        },
        20,
    )
    assert "| heartcode | 240 | 12% | 4 | 2.0 |" in told
    assert "200: does not keep up" in told
    assert "- nginx carries at least 240 tokens/s, 1 times" in told
    assert "- heartcode carries 240 tokens/s, 1 times" in told


@pytest.mark.parametrize(
    ("percent", "expected"), [(20, (10_000, 2_000)), (100, (10_000, 10_000)), (1, (100_000, 1_000))]
)
def test_no_quota_is_less_than_the_kernel_takes(percent: int, expected: tuple[int, int]) -> None:
    assert period_and_quota_us(percent) == expected


def unified(directory: Path) -> Path:
    """Lay out what the kernel shows of the second version of control groups."""
    (directory / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (directory / "cgroup.subtree_control").write_text("memory pids\n")
    return directory


def test_a_quota_is_written_for_the_second_version_of_control_groups(tmp_path: Path) -> None:
    SlowCore(20, cgroups=unified(tmp_path)).__enter__()
    (group,) = tmp_path.glob("heartcode-bench-*")
    assert {file.name: file.read_text() for file in group.iterdir()} == {"cpu.max": "2000 10000"}
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"


def test_a_quota_is_written_for_the_first_version_of_control_groups(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "tasks").touch()
    SlowCore(5, cgroups=tmp_path).__enter__()
    (group,) = (tmp_path / "cpu").glob("heartcode-bench-*")
    assert {file.name: file.read_text() for file in group.iterdir()} == {
        "cpu.cfs_period_us": "20000",
        "cpu.cfs_quota_us": "1000",
    }


def test_a_program_is_put_on_one_core_with_its_quota(tmp_path: Path) -> None:
    core = SlowCore(20, cgroups=unified(tmp_path))
    core.__enter__()
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        core.hold([sleeping.pid])
        cores = os.sched_getaffinity(sleeping.pid)
        sleeping.kill()
    (procs,) = tmp_path.glob("heartcode-bench-*/cgroup.procs")
    assert procs.read_text() == str(sleeping.pid)
    assert cores == {core.cpu}


def test_without_a_controller_or_the_right_to_it_there_is_no_quota(tmp_path: Path) -> None:
    with pytest.raises(SlowCoreError, match="no controller for CPU time"):
        SlowCore(20, cgroups=tmp_path)
    (unified(tmp_path) / f"heartcode-bench-{os.getpid()}").touch()
    with pytest.raises(SlowCoreError, match="needs root"):
        SlowCore(20, cgroups=tmp_path).__enter__()


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        bench.options(arguments)
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--quota", "0"], "argument --quota: 0 is no number from 1 to 100"),
        (["--quota", "20%"], "argument --quota: 20% is no number from 1 to 100"),
        (["--streams", "8000"], "argument --streams: 8000 is no number from 1 to 7900"),
        (["--before", "/nowhere"], "argument --before: /nowhere is no checkout"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told in refused(arguments, capsys)


def test_relays_are_compared_round_by_round() -> None:
    """A machine that is twice as slow in one round is that for both."""
    assert bench.compared([50.0, 100.0, 55.0], [20.0, 40.0, 20.0]) == "2.50 (2.50 to 2.75)"


def test_what_a_relay_adds_is_told_from_all_rounds() -> None:
    bare = [[1.0] * 10, [2.0] * 10]
    mine = [[2.0] * 10, [4.0] * 10]
    assert bench.added_ms(mine, bare) == "1.5 (95 %: 2.0)"


def test_where_there_is_no_go_its_proxy_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nginx").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bench, "install_heartcode", lambda _cache: "python3")
    kinds = bench.install(bench.options(["--no-litellm"]))
    assert [kind.name for kind in kinds] == ["nginx", "heartcode"]
    assert "Go is left out: apt-get install golang-go\n" in capsys.readouterr().err


class Served:
    """A relay that has had so much memory."""

    name = "served"
    url = "http://127.0.0.1:1"

    def wait_until_ready(self, path: str) -> None:
        assert path == "/health"

    def peak_mb(self) -> float:
        return 118.0


def test_memory_for_fewer_streams_than_were_asked_for_is_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[dict[str, float]] = []

    def seen(_url: str, **work: float) -> Outcome:
        asked.append(work)
        return Outcome(first_token_s=[], late_s=0.0, at_a_time=2000, errors=[])

    monkeypatch.setattr(bench, "load", seen)
    relay = cast("Relay", Served())
    assert bench.memory_mb(relay, 2000) == 118.0
    with pytest.raises(SystemExit, match="served had 2000 streams at a time, not 4000"):
        bench.memory_mb(relay, 4000)
    # The first one still has tokens to come when the last one begins.
    assert [work["tokens"] / work["rate"] > work["start_within"] for work in asked] == [True, True]


def test_another_checkout_is_measured_beside_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app" / "heartcode").mkdir(parents=True)
    (tmp_path / "nginx").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bench, "install_heartcode", lambda _cache: "python3")
    monkeypatch.setattr(HeartCodeBefore, "app", HeartCodeBefore.app)
    bench.install(bench.options(["--no-litellm", "--before", str(tmp_path)]))
    assert (HeartCodeBefore.app, HeartCode.app) == (tmp_path / "app", ROOT / "app")


def fake_go(directory: Path, *, compiles: bool) -> None:
    """Put a compiler on its place that writes down its environment instead of a program."""
    go = directory / "go"
    go.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = version ]; then echo "go version go1.19.8 linux/amd64"; exit; fi\n'
        f'echo "$GOTOOLCHAIN $GO111MODULE $CGO_ENABLED" >"$3"; exit {0 if compiles else 1}\n'
    )
    go.chmod(0o755)


def test_the_proxy_in_go_is_built_once_from_the_standard_library_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, compiles=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cache = tmp_path / "cache"
    built = build_go(cache)
    assert built is not None
    program, version = built
    assert version == "go1.19.8"
    assert Path(program).read_text() == "local off 0\n"
    Path(program).write_text("kept")
    assert build_go(cache) == built
    assert Path(program).read_text() == "kept"


def test_a_proxy_that_does_not_compile_ends_the_benchmark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_go(tmp_path, compiles=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SystemExit, match=r"does not compile with go version go1\.19\.8"):
        build_go(tmp_path / "cache")


@pytest.mark.parametrize(
    ("limits", "uid", "expected"),
    [
        ((1024, 20000), 1000, (8256, 20000)),
        ((1024, 4096), 0, (8256, 8256)),
        ((20000, 20000), 1000, None),
    ],
)
def test_a_relay_gets_the_descriptors_that_its_streams_need(
    limits: tuple[int, int],
    uid: int,
    expected: tuple[int, int] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _which, new: given.append(new))
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    allow_many_connections(4000)
    assert given == ([expected] if expected else [])


def test_who_may_not_have_so_many_descriptors_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 4096))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="4000 streams need 8256 open files"):
        allow_many_connections(4000)
