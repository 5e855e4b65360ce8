#!/usr/bin/env python3
"""Measures what llama-server's speculation without a second model brings for role-play.

    make bench-speculation

`--spec-type ngram-*` looks for the last tokens earlier in the text, proposes what followed there,
and has the model check all of it in one batch. One llama-server for each type and one without go
through the same chats, turn by turn and one after the other, with SmolLM2-135M on one core. All of
them get the history that the one without has written.

On a CPU a batch takes nearly as long as its tokens one by one, where a graphics card reads its
weights once for all of them: what is lost here is more than a card loses, what is gained is less.
How often a proposal is right does not depend on that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

import requests

from tools.bench.llamas import Llama, command
from tools.bench.measuring import table
from tools.bench.real_models import SMOLLM2

_NONE = "none"
_TYPES = (_NONE, "ngram-simple", "ngram-map-k", "ngram-map-k4v", "ngram-mod")
_TIMEOUT_S = 600.0

_CARD = (
    "You are Maren, who keeps the lighthouse on Gull Rock and has not left it for nine years. You"
    " are dry, watchful and kinder than you admit. You speak in short sentences. Actions stand"
    " between asterisks. You never speak for the stranger. You end every answer with these lines:\n"
    "[Place: the lighthouse on Gull Rock | Weather: storm | Lamp: lit | Trust: 2 of 10]\n"
    "[Maren carries: a brass key, a storm lantern, a coil of rope]"
)
_GREETING = (
    "*Maren lifts the storm lantern and looks the stranger over.* You picked a fine night to run"
    " aground. *She holds the door against the wind with her shoulder.* Come in, then. Mind the"
    " rope. And do not touch the lamp.\n"
    "[Place: the lighthouse on Gull Rock | Weather: storm | Lamp: lit | Trust: 2 of 10]\n"
    "[Maren carries: a brass key, a storm lantern, a coil of rope]"
)
_SAID = (
    "*The stranger steps in and drips on the floor.* Thank you. I lost my boat. Who are you?",
    "*looks up the stairs* Why may nobody touch the lamp?",
    "I will stay down here, then. *sits by the stove* What is the brass key for?",
    "*startled* Did you hear that? There is somebody knocking outside.",
    "*takes the rope* I will go with you. What do we do?",
)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One answer: how it was drawn, tokens, seconds for them, tokens proposed and taken."""

    temperature: float
    tokens: int
    seconds: float
    proposed: int
    taken: int


def answer(
    llama: Llama, messages: Sequence[dict[str, str]], *, temperature: float, tokens: int
) -> tuple[str, Turn]:
    """Return an answer's text, and what llama-server tells of it."""
    fields = {
        "messages": messages,
        "max_tokens": tokens,
        "temperature": temperature,
        "seed": len(messages),
    }
    url = f"{llama.url}/v1/chat/completions"
    told: dict[str, Any] = requests.post(url, json=fields, timeout=_TIMEOUT_S).json()
    timings = told["timings"]
    return told["choices"][0]["message"]["content"], Turn(
        temperature=temperature,
        tokens=timings["predicted_n"],
        seconds=timings["predicted_ms"] / 1000,
        proposed=timings.get("draft_n", 0),
        taken=timings.get("draft_n_accepted", 0),
    )


def measure(
    llamas: dict[str, Llama], *, temperature: float, tokens: int, rounds: int
) -> dict[str, list[Turn]]:
    """Go through the chat `rounds` times with all of them."""
    seen: dict[str, list[Turn]] = {name: [] for name in llamas}
    for number in range(rounds):
        name = f"Chat {number}. "
        messages = [
            {"role": "system", "content": name + _CARD},
            {"role": "assistant", "content": _GREETING},
        ]
        for said in _SAID:
            messages.append({"role": "user", "content": said})
            text = ""
            for kind, llama in llamas.items():
                its, turn = answer(llama, messages, temperature=temperature, tokens=tokens)
                text = its if kind == _NONE else text
                seen[kind].append(turn)
            messages.append({"role": "assistant", "content": text})
    return seen


def report(seen: dict[str, list[Turn]]) -> str:
    """Return the table: speed against none turn by turn, and what became of the proposals."""
    rows = [["--spec-type", "tokens/s", "÷ none, by turns", "worst turn", "proposed", "taken"]]
    for kind, turns in seen.items():
        speed = sum(t.tokens for t in turns) / sum(t.seconds for t in turns)
        ratios = [
            (turn.tokens / turn.seconds) / (plain.tokens / plain.seconds)
            for turn, plain in zip(turns, seen[_NONE], strict=True)
        ]
        proposed, taken = sum(t.proposed for t in turns), sum(t.taken for t in turns)
        rows.append(
            [
                kind,
                f"{speed:.1f}",
                f"{statistics.median(ratios):.2f}",
                f"{min(ratios):.2f}",
                f"{proposed / sum(t.tokens for t in turns):.2f} a token",
                f"{taken / proposed:.0%}" if proposed else "-",
            ]
        )
    return table(rows)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=120, help="of an answer at most")
    parser.add_argument("--rounds", type=int, default=2, help="chats for each temperature")
    parser.add_argument("--types", nargs="+", choices=_TYPES[1:], default=_TYPES[1:])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    server, figures = command(), {}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        llamas = {
            kind: stack.enter_context(
                Llama(
                    Path(name),
                    server,
                    SMOLLM2.file(),
                    slots=1,
                    cache_ram_mib=0,
                    more=["--spec-type", kind],
                )
            )
            for kind in (_NONE, *given.types)
        }
        for llama in llamas.values():
            llama.wait_until_serving()
        for temperature in (0.8, 0.0):
            seen = measure(
                llamas, temperature=temperature, tokens=given.tokens, rounds=given.rounds
            )
            figures[str(temperature)] = {
                kind: [asdict(turn) for turn in turns] for kind, turns in seen.items()
            }
            print(f"Temperature {temperature}:\n\n{report(seen)}\n")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}.")
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
