#!/usr/bin/env python3
"""Measures what conversations in files bring, side by side with none, on this machine.

    make bench-warm

A returning conversation: SmolLM2-135M reads a prompt of some thousand tokens, its llama-server is
restarted or killed, and the conversation goes on: how long until its first token? A conversation
that nothing has happened to stands beside them.

More conversations than slots: those of `make bench-gateway`, over the four llama-servers of one rig
with the counting model: of the prompt tokens that a perfect cache would have held, how many were
reused?

Tokens of others: somebody's stream while conversations beside it are saved and restored.

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
_TOKENS_OF_IT = 19  # of SmolLM2
_CONTEXT, _ANSWER = 8192, 8
_BACKENDS, _SLOTS_EACH = 4, 2
_HOST_CACHE_MIB = 64  # holds all conversations
_SEED = 20
_IDLE_S = 0.5
_WITHIN_S = 600.0


def settings(files: Path | None, **more: str) -> dict[str, str]:
    """Return a rig's settings, with conversations in `files` or in none."""
    # Where the CPU computes and others do too, a batch may take long.
    for patience in ("PROBE_IDLE_S", "SUSPECT_S", "PROBE_TIMEOUT_S", "TOKEN_SILENCE_TIMEOUT_S"):
        more[f"HEARTCODE_{patience}"] = "3600"
    if files is None:
        return more
    kept = {"HEARTCODE_WARM_MIB": "20000", "HEARTCODE_WARM_DIR": str(files)}
    return {**kept, "HEARTCODE_WARM_IDLE_S": str(_IDLE_S), **more}


def talk(name: str, turns: int, *, tokens: int) -> list[Message]:
    """Return a conversation of about so many tokens, as its client sends it for a turn."""
    messages = [{"role": "system", "content": f"{name}. " + _SETTING * (tokens // _TOKENS_OF_IT)}]
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


def returning(
    scratch: Path, server: Sequence[str], *, is_on: bool, tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds to the first token of conversations that return, by what has happened."""
    seen: dict[str, list[float]] = {"nothing": [], "restart": [], "kill -9": []}
    with directory_for(scratch, is_on=is_on) as (directory, files), ExitStack() as stack:

        def start(port: int = 0) -> Llama:
            llama = Llama(
                directory,
                server,
                SMOLLM2.file(),
                slots=2,
                cache_ram_mib=0,
                context=_CONTEXT,
                threads=os.cpu_count() or 1,
                conversations=files,
                port=port,
            )
            llama.wait_until_serving()
            return llama

        llama = start()
        rig = stack.enter_context(
            Rig(directory, [llama.port], name="rig", slots=2, settings=settings(files))
        )
        rig.wait_until_serving()
        for number in range(rounds):
            for what in ("restart", "kill -9"):
                name = f"{what} {number}"
                asked(rig.url, talk(name, 1, tokens=tokens))
                warm = asked(rig.url, talk(name, 2, tokens=tokens))
                seen["nothing"].append(warm.first_token_s or 0.0)
                if files is not None:
                    wait_until_saved(files, 1 + 2 * number + (what != "restart"))
                time.sleep(_IDLE_S)
                llama.kill() if what == "kill -9" else llama.__exit__()
                llama = start(llama.port)
                rig.wait_until_serving()
                answer = asked(rig.url, talk(name, 3, tokens=tokens))
                if answer.prompt_tokens < tokens:
                    raise RuntimeError(f"the prompt has {answer.prompt_tokens} tokens alone")
                seen[what].append(answer.first_token_s or 0.0)
                print(f"  files {is_on}, {what}: {answer.first_token_s:.2f} s", file=sys.stderr)
        llama.__exit__()
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
        more = {"HEARTCODE_HOST_CACHE_TOKENS": str(model.tokens_in(host_mib))}
        rig = stack.enter_context(
            Rig(
                directory,
                [llama.port for llama in llamas],
                name="rig",
                slots=_SLOTS_EACH,
                settings=settings(files, **more),
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


def disturbance(
    scratch: Path, server: Sequence[str], *, is_on: bool, tokens: int, stream: int
) -> float:
    """Return the seconds that a token of a long stream takes, conversations coming and going.

    They are read, saved after a moment and give way to the next in the other slot.
    """
    with directory_for(scratch, is_on=is_on) as (directory, files), ExitStack() as stack:
        llama = stack.enter_context(
            Llama(
                directory,
                server,
                SMOLLM2.file(),
                slots=2,
                cache_ram_mib=0,
                context=_CONTEXT,
                conversations=files,
            )
        )
        llama.wait_until_serving()
        rig = stack.enter_context(
            Rig(directory, [llama.port], name="rig", slots=2, settings=settings(files))
        )
        rig.wait_until_serving()
        # What has been saved again and again before anybody listens.
        for number in range(2):
            asked(rig.url, talk(f"Tale {number}", 1, tokens=tokens))
        if files is not None:
            wait_until_saved(files, 2)
        answers: list[Answer] = []
        listening = threading.Thread(
            target=lambda: answers.append(asked(rig.url, talk("Stream", 1, tokens=60), stream))
        )
        listening.start()
        turn = 2
        while listening.is_alive():
            # A short turn of its own in the other slot, then silence in which it is saved.
            asked(rig.url, talk("Tale 1", turn, tokens=tokens), 1)
            turn += 1
            listening.join(4 * _IDLE_S)
    gaps = answers[0].gaps_s
    return sum(gaps) / len(gaps)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["returning", "reuse", "disturbance"])
    parser.add_argument("--tokens", type=int, default=2000, help="of a returning conversation")
    parser.add_argument("--rounds", type=int, default=2, help="restarts and kills of each kind")
    parser.add_argument("--conversations", type=int, default=32)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--at-a-time", type=int, default=12, help="requests; there are 8 slots")
    parser.add_argument("--dead-weight-mib", type=int, default=8, help="of the counting model")
    parser.add_argument("--stream", type=int, default=300, help="tokens of the stream beside")
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


def main() -> None:
    """Measure, and print the tables."""
    given = options()
    Rig.python = install_heartcode(cache_directory())
    server = command()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        scratch = Path(name)
        if given.only in (None, "returning"):
            off, on = (
                returning(scratch, server, is_on=on, tokens=given.tokens, rounds=given.rounds)
                for on in (False, True)
            )
            figures["returning"] = {"off": off, "on": on}
            print(report_returning(off, on), end="\n\n")
        if given.only in (None, "reuse"):
            model = Model(scratch / "counting.gguf", dead_weight_mib=given.dead_weight_mib)
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
            off_s, on_s = (
                disturbance(scratch, server, is_on=on, tokens=given.tokens, stream=given.stream)
                for on in (False, True)
            )
            figures["disturbance"] = {"off_s": off_s, "on_s": on_s}
            print(f"A token beside them takes {on_s / off_s:.3f} times as long with files.\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}.")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
