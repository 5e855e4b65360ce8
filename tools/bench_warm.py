#!/usr/bin/env python3
"""Measures what conversations in files bring, side by side with none, on this machine.

    make bench-warm

A returning conversation: SmolLM2-135M reads a prompt of some thousand tokens, its llama-server is
restarted as its unit does, or killed, and the conversation goes on: how long until its first token?
A conversation that nothing has happened to stands beside them.

More conversations than slots: those of `make bench-gateway`, over the four llama-servers of one rig
with the counting model: of the prompt tokens that a perfect cache would have held, how many were
reused?

Tokens of others: somebody's stream, alone, and while a conversation beside it goes on and, with
files, is saved; of the same length, beside the same turns, in rounds that take turns.

The times are those of this machine; compare figures of one run, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

import requests
from heartcode_benchmark.asking import Answer, Message, Server, ask
from heartcode_models.cache import cache_directory

from tools.bench.conversations import Reuse, Shape, hold
from tools.bench.gateway import Rig
from tools.bench.llamas import Llama, Model, command
from tools.bench.measuring import table
from tools.bench.real_models import SMOLLM2
from tools.bench.relays import install_heartcode

_SETTING = "The lamps went out one by one as the tide crept over the stones of the old harbour. "
_CONTEXT, _ANSWER = 8192, 8
_BACKENDS, _SLOTS_EACH = 4, 2
_HOST_CACHE_MIB = 64  # holds all conversations
_SEED = 20
_IDLE_S = 0.5
_WITHIN_S = 600.0
# Of the conversation beside a stream, while that lasts.
_TURNS_BESIDE = 3
# Between them, in which it may be saved.
_SILENCE_S = 3 * _IDLE_S


def settings(
    files: Path | None, *, run: Path | None = None, host_cache_tokens: int = 0
) -> dict[str, str]:
    """Return a rig's settings, with conversations in `files` or in none, and its run directory."""
    more = {"HEARTCODE_HOST_CACHE_TOKENS": str(host_cache_tokens)}
    if run is not None:
        more["HEARTCODE_RUN_DIR"] = str(run)
    # Where the CPU computes and others do too, a batch may take long.
    for patience in ("PROBE_IDLE_S", "SUSPECT_S", "PROBE_TIMEOUT_S", "TOKEN_SILENCE_TIMEOUT_S"):
        more[f"HEARTCODE_{patience}"] = "3600"
    if files is None:
        return more
    kept = {"HEARTCODE_WARM_MIB": "20000", "HEARTCODE_WARM_DIR": str(files)}
    return {**kept, "HEARTCODE_WARM_IDLE_S": str(_IDLE_S), **more}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A model that reads conversations; `tokens_of_it` are those of the setting."""

    model: Path
    tokens_of_it: int

    @classmethod
    def real(cls) -> Reader:
        """Return SmolLM2."""
        return cls(model=SMOLLM2.file(), tokens_of_it=19)

    @classmethod
    def counting(cls, model: Model) -> Reader:
        """Return the model that counts, to which a character is a token."""
        return cls(model=model.path, tokens_of_it=len(_SETTING))

    def talk(self, name: str, turns: int, *, tokens: int) -> list[Message]:
        """Return a conversation of about so many tokens, as its client sends it for a turn."""
        setting = _SETTING * (tokens // self.tokens_of_it)
        messages = [{"role": "system", "content": f"{name}. {setting}"}]
        for turn in range(turns):
            messages.append({"role": "user", "content": f"{turn}. What happens next?"})
            messages.append({"role": "assistant", "content": "The wind turns."})
        return list(messages[:-1])


def asked(url: str, messages: Sequence[Message], tokens: int = _ANSWER) -> Answer:
    """Ask.

    Raises:
        RuntimeError: there is no whole answer.
    """
    with requests.Session() as session:
        answer = ask(session, Server(url=url, model="bench"), messages, tokens)
    if answer.error or answer.first_token_s is None:
        raise RuntimeError(f"{answer.error}: {answer.detail}")
    return answer


def wait_until_saved(files: Path, how_many: int) -> None:
    """Return when there are so many conversations.

    Raises:
        RuntimeError: there are none after a long time.
    """
    deadline = time.monotonic() + _WITHIN_S
    while len(list(files.glob("*.json"))) < how_many:
        if time.monotonic() > deadline:
            raise RuntimeError("the conversations were not saved")
        time.sleep(0.1)


@contextmanager
def directory_for(stack_in: Path, *, is_on: bool) -> Iterator[tuple[Path, Path | None]]:
    """Make a directory for programs, and one in it for conversations where they are kept."""
    with tempfile.TemporaryDirectory(dir=stack_in) as name:
        directory = Path(name)
        files = directory / "conversations"
        files.mkdir()
        yield directory, files if is_on else None


class SmallRig:
    """A rig with one llama-server of two slots, which leaves its unit's signs.

    Attributes:
        llama: its llama-server.
        files: where it keeps conversations; None where it keeps none.
        unsaved: the sign that something is in no file yet.
    """

    def __init__(
        self,
        directory: Path,
        server: Sequence[str],
        model: Path,
        *,
        files: Path | None,
        threads: int = 1,
        more: Sequence[str] = (),
    ) -> None:
        run = directory / "run"
        self.files = files
        self.unsaved = run / "llama" / "0.unsaved"
        self._start = partial(
            Llama,
            directory,
            server,
            model,
            slots=2,
            cache_ram_mib=0,
            context=_CONTEXT,
            threads=threads,
            conversations=files,
            signs=run / "llama",
            more=more,
        )
        with ExitStack() as stack:
            self.llama: Llama = self._start()
            stack.callback(self._end_llama)
            self.llama.wait_until_serving()
            given = settings(files, run=run)
            self._proxy = stack.enter_context(
                Rig(directory, [self.llama.port], name="rig", slots=2, settings=given)
            )
            self._proxy.wait_until_serving()
            self._programs = stack.pop_all()

    @property
    def url(self) -> str:
        """Where it is asked."""
        return self._proxy.url

    def restart(self) -> None:
        """Restart the llama-server as its unit does."""
        self.llama.stop()
        self._begin_again()

    def crash(self) -> None:
        """Kill the llama-server, and start it again."""
        self.llama.kill()
        self._begin_again()

    def end(self) -> None:
        """End both programs."""
        self._programs.close()

    def _end_llama(self) -> None:
        self.llama.__exit__()  # whichever it is by then

    def _begin_again(self) -> None:
        self.llama = self._start(port=self.llama.port)
        self.llama.wait_until_serving()
        self._proxy.wait_until_serving()


@contextmanager
def small_rig(
    scratch: Path,
    server: Sequence[str],
    model: Path,
    *,
    is_on: bool,
    threads: int = 1,
    more: Sequence[str] = (),
) -> Iterator[SmallRig]:
    """Run such a rig, with conversations in files or in none."""
    with directory_for(scratch, is_on=is_on) as (directory, files), ExitStack() as stack:
        rig = SmallRig(directory, server, model, files=files, threads=threads, more=more)
        stack.callback(rig.end)
        yield rig


def returning(
    scratch: Path,
    server: Sequence[str],
    reader: Reader,
    *,
    is_on: bool,
    tokens: int,
    rounds: int,
) -> dict[str, list[float]]:
    """Return the seconds to the first token of conversations that return, by what has happened."""
    seen: dict[str, list[float]] = {"nothing": [], "restart": [], "kill -9": []}
    threads = os.cpu_count() or 1
    with small_rig(scratch, server, reader.model, is_on=is_on, threads=threads) as rig:
        happens = {"restart": rig.restart, "kill -9": rig.crash}
        for number in range(rounds):
            for what, happen in happens.items():
                name = f"{what} {number}"
                asked(rig.url, reader.talk(name, 1, tokens=tokens))
                warm = asked(rig.url, reader.talk(name, 2, tokens=tokens))
                seen["nothing"].append(warm.first_token_s or 0.0)
                if rig.files is not None and what == "kill -9":
                    wait_until_saved(rig.files, 2 + 2 * number)
                time.sleep(_IDLE_S)
                happen()
                answer = asked(rig.url, reader.talk(name, 3, tokens=tokens))
                if answer.prompt_tokens < tokens:
                    raise RuntimeError(f"the prompt has {answer.prompt_tokens} tokens alone")
                seen[what].append(answer.first_token_s or 0.0)
                print(f"  files {is_on}, {what}: {answer.first_token_s:.2f} s", file=sys.stderr)
    return seen


def reuse(
    scratch: Path, server: Sequence[str], model: Model, shape: Shape, *, is_on: bool, host_mib: int
) -> dict[str, Any]:
    """Hold conversations on one rig; return what of a perfect cache's part was reused."""
    with directory_for(scratch, is_on=is_on) as (directory, files), ExitStack() as stack:
        llamas = [
            stack.enter_context(
                Llama(
                    directory,
                    server,
                    model.path,
                    slots=_SLOTS_EACH,
                    cache_ram_mib=host_mib,
                    conversations=files,
                )
            )
            for _ in range(_BACKENDS)
        ]
        for llama in llamas:
            llama.wait_until_serving()
        rig = stack.enter_context(
            Rig(
                directory,
                [llama.port for llama in llamas],
                name="rig",
                slots=_SLOTS_EACH,
                settings=settings(files, host_cache_tokens=model.tokens_in(host_mib)),
            )
        )
        rig.wait_until_serving()
        begun = time.monotonic()
        turns = hold(Server(url=rig.url, model="bench"), shape, mark="bench", seed=_SEED)
        seconds = time.monotonic() - begun
        found = Reuse.of(turns)
    print(f"  files {is_on}, host cache {host_mib}: {found.share:.1%}", file=sys.stderr)
    return {
        "is_on": is_on,
        "host_mib": host_mib,
        "share": found.share,
        "first_token_s": found.first_token_s,
        "seconds": seconds,
    }


@dataclass(kw_only=True)
class Beside:
    """A rig on which somebody listens to a stream while another conversation goes on.

    Attributes:
        rig: the rig.
        reader: its model.
        tokens: the length of the other conversation.
        turn: how far the other conversation is.
        written: the files that were seen, by name.
    """

    rig: SmallRig
    reader: Reader
    tokens: int
    turn: int = 1
    written: set[str] = field(default_factory=set)

    def hear(self, tokens: int) -> Answer:
        """Return a stream of so many tokens, when it has ended."""
        return asked(self.rig.url, self.reader.talk("Stream", 1, tokens=60), tokens)

    def go_on(self) -> None:
        """Let the other conversation have a turn."""
        asked(self.rig.url, self.reader.talk("Tale", self.turn, tokens=self.tokens), 1)
        self.turn += 1
        self.look()

    def look(self) -> int:
        """Note the files that are there; return how many were noted so far."""
        if self.rig.files is not None:
            self.written.update(path.name for path in self.rig.files.glob("*.json"))
        return len(self.written)

    def wait_until_quiet(self) -> None:
        """Return when nothing is left to be saved."""
        time.sleep(_SILENCE_S)
        deadline = time.monotonic() + _WITHIN_S
        while self.rig.unsaved.exists():
            if time.monotonic() > deadline:
                raise RuntimeError("the conversations were not saved")
            time.sleep(0.1)
        self.look()


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A stream.

    Attributes:
        token_s: seconds for a token.
        longest_s: the longest pause.
        cpu_s: what llama-server has computed meanwhile; other programs lengthen it little.
        files: how many were written beside it.
    """

    token_s: float
    longest_s: float
    cpu_s: float
    files: int


@contextmanager
def listening_room(
    scratch: Path, server: Sequence[str], reader: Reader, *, is_on: bool, tokens: int
) -> Iterator[Beside]:
    """Run a rig with one llama-server, in one of whose two slots the other conversation is."""
    # A stream is as long as it is asked to be.
    more = ["--ignore-eos"]
    with small_rig(scratch, server, reader.model, is_on=is_on, more=more) as rig:
        beside = Beside(rig=rig, reader=reader, tokens=tokens)
        beside.go_on()
        beside.hear(_ANSWER)
        beside.wait_until_quiet()
        yield beside


def listen(beside: Beside, *, turns: int, stream: int) -> Heard:
    """Listen to a stream of so many tokens, while the other conversation has so many turns."""
    before, cpu_s = beside.look(), beside.rig.llama.cpu_s()
    answers: list[Answer] = []
    listening = threading.Thread(target=lambda: answers.append(beside.hear(stream)))
    listening.start()
    for _ in range(turns):
        listening.join(_SILENCE_S)
        if not listening.is_alive():
            raise RuntimeError("the stream has ended before the others' turns: --stream")
        beside.go_on()
    listening.join()
    cpu_s = beside.rig.llama.cpu_s() - cpu_s
    files = beside.look() - before
    beside.wait_until_quiet()
    if not answers:
        raise RuntimeError("the stream has broken off")
    gaps = answers[0].gaps_s
    return Heard(token_s=sum(gaps) / len(gaps), longest_s=max(gaps), cpu_s=cpu_s, files=files)


def disturbance(
    scratch: Path,
    server: Sequence[str],
    reader: Reader,
    *,
    tokens: int,
    stream: int,
    rounds: int,
) -> dict[str, list[Heard]]:
    """Return what was heard of streams, alone and beside others, without files and with."""
    seen: dict[str, list[Heard]] = {"alone": [], "off": [], "on": []}
    with ExitStack() as stack:
        off, on = (
            stack.enter_context(listening_room(scratch, server, reader, is_on=is_on, tokens=tokens))
            for is_on in (False, True)
        )
        arms = [("alone", off, 0), ("off", off, _TURNS_BESIDE), ("on", on, _TURNS_BESIDE)]
        for number in range(rounds):
            # Whatever the machine does meanwhile shall not always fall on the same one.
            for name, beside, turns in arms[:: 1 if number % 2 else -1]:
                heard = listen(beside, turns=turns, stream=stream)
                seen[name].append(heard)
                print(f"  {name}: {heard}", file=sys.stderr)
    return seen


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["returning", "reuse", "disturbance"])
    parser.add_argument("--tokens", type=int, default=2000, help="of a returning conversation")
    parser.add_argument("--rounds", type=int, default=2, help="restarts and kills of each kind")
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--at-a-time", type=int, default=12, help="requests; there are 8 slots")
    parser.add_argument(
        "--counting", action="store_true", help="the counting model in all parts: quick"
    )
    parser.add_argument("--dead-weight-mib", type=int, default=8, help="of the counting model")
    parser.add_argument("--stream", type=int, default=400, help="tokens of the stream beside")
    parser.add_argument("--listenings", type=int, default=6, help="rounds of streams")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def report_returning(off: dict[str, list[float]], on: dict[str, list[float]]) -> str:
    """Return the table."""
    rows = [
        ["what has happened", "first token without files, s", "with files, s", "with ÷ without"]
    ]
    for what, times in off.items():
        without, with_files = statistics.median(times), statistics.median(on[what])
        rows.append([what, f"{without:.2f}", f"{with_files:.2f}", f"{with_files / without:.3f}"])
    return table(rows)


def report_reuse(figures: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    rows = [["host cache", "files", "reused of what a perfect cache has", "first token, s"]]
    rows += [
        [
            f"{seen['host_mib']} MiB" if seen["host_mib"] else "none",
            "on" if seen["is_on"] else "off",
            f"{seen['share']:.1%}",
            f"{seen['first_token_s']:.3f}",
        ]
        for seen in figures
    ]
    return table(rows)


def report_disturbance(seen: dict[str, list[Heard]]) -> str:
    """Return the table: medians, with the least and the most."""
    rows = [
        [
            "a stream",
            "a token every, ms",
            "longest pause, ms",
            "llama-server's CPU time, s",
            "files written beside it",
        ]
    ]
    titles = {"alone": "alone", "off": "beside turns of others", "on": "the same, with files"}
    for name, heard in seen.items():
        rows.append(
            [
                titles[name],
                _spread([1000 * each.token_s for each in heard]),
                _spread([1000 * each.longest_s for each in heard]),
                _spread([each.cpu_s for each in heard], digits=2),
                str(sum(each.files for each in heard)),
            ]
        )
    pairs = list(zip(seen["off"], seen["on"], strict=True))
    token = _spread([b.token_s / a.token_s for a, b in pairs], digits=3)
    cpu = _spread([b.cpu_s / a.cpu_s for a, b in pairs], digits=3)
    told = f"With files ÷ without, round by round: a token {token}, CPU time {cpu}."
    return f"{table(rows)}\n\n{told}"


def _spread(values: Sequence[float], *, digits: int = 1) -> str:
    least, median, most = min(values), statistics.median(values), max(values)
    return f"{median:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


def main() -> None:
    """Measure, and print the tables."""
    given = options()
    Rig.python = install_heartcode(cache_directory())
    server = command()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        model = Model(scratch / "counting.gguf", dead_weight_mib=given.dead_weight_mib)
        reader = Reader.counting(model) if given.counting else Reader.real()
        if given.only in (None, "returning"):
            off, on = (
                returning(
                    scratch, server, reader, is_on=on, tokens=given.tokens, rounds=given.rounds
                )
                for on in (False, True)
            )
            figures["returning"] = {"off": off, "on": on}
            print(report_returning(off, on), end="\n\n")
        if given.only in (None, "reuse"):
            shape = Shape(
                conversations=given.conversations, turns=given.turns, at_a_time=given.at_a_time
            )
            figures["reuse"] = [
                reuse(scratch, server, model, shape, is_on=on, host_mib=host_mib)
                for host_mib in (_HOST_CACHE_MIB, 0)
                for on in (False, True)
            ]
            print(report_reuse(figures["reuse"]), end="\n\n")
        if given.only in (None, "disturbance"):
            seen = disturbance(
                scratch,
                server,
                reader,
                tokens=given.tokens,
                stream=given.stream,
                rounds=given.listenings,
            )
            figures["disturbance"] = {
                name: [asdict(each) for each in heard] for name, heard in seen.items()
            }
            print(report_disturbance(seen), end="\n\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}.")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
