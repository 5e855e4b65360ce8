"""Sets persistence mode and power limits: `python -m heartcode.gpu.power CONFIG`.

heartcode-gpu-tune.service runs it before the llama-servers start, since a card forgets both when
the host boots. CONFIG is JSON, written by the role gpu_tune:

    {"persistence": true,
     "timeout_s": 20,
     "model_power_limits_w": {"P106-100": 90},
     "cards": {"GPU-a": {"power_limit_w": 100}, "GPU-b": {"power_limit_w": "stock"}, "GPU-c": {}}}

A card without a limit of its own gets its model's, and where there is none keeps what it has. Each
card is dealt with by a process of its own, so that a call to the driver that never returns holds up
nothing but that card. What is changed is printed; a card that is lost is a line too, and no
failure. Exit status: 78 for a wrong CONFIG, 1 where no card at all could be reached, else 0.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from heartcode.gpu.card_modes import STOCK, CardModes, UnreachableError, model_key, tune_card
from heartcode.settings import EXIT_BAD_SETTINGS

_NO_CARD = 1
_MOST_WATTS = 1000
_LONGEST_S = 600

#: What a card's process says at its end; before that, sentences.
_REACHED, _UNREACHED = True, False


class ConfigError(ValueError):
    """CONFIG does not say what it has to."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What CONFIG says: modes by UUID, and how many seconds all of it may take."""

    cards: Mapping[str, CardModes]
    timeout_s: float

    @classmethod
    def load(cls, path: Path) -> Config:
        """Read and check a file.

        Raises:
            ConfigError: it cannot be read, or holds what cannot be.
        """
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot be read: {error}") from None
        try:
            return cls(cards=dict(_cards(found)), timeout_s=_timeout(found["timeout_s"]))
        except KeyError as error:
            raise ConfigError(f"has no {error}") from None
        except (AttributeError, TypeError):
            raise ConfigError("must be an object with objects for the cards") from None


def _cards(found: Any) -> Iterator[tuple[str, CardModes]]:
    if not isinstance(found["persistence"], bool):
        raise ConfigError(f"persistence must be true or false, not {found['persistence']!r}")
    models = {
        model_key(name): _watts(watts, name)
        for name, watts in found["model_power_limits_w"].items()
    }
    for uuid, card in found["cards"].items():
        limit = card.get("power_limit_w")
        yield (
            uuid,
            CardModes(
                persistence=found["persistence"],
                power_limit_w=None if limit is None else _watts(limit, uuid),
                model_limits_w=models,
            ),
        )


def _watts(value: Any, where: str) -> float | str:
    if value == STOCK:
        return STOCK
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 < value <= _MOST_WATTS
    ):
        raise ConfigError(
            f"the power limit of {where} must be watts up to {_MOST_WATTS} or {STOCK}, not"
            f" {value!r}"
        )
    return float(value)


def _timeout(value: Any) -> float:
    if not 0 < value <= _LONGEST_S:
        raise ConfigError(f"timeout_s must be seconds up to {_LONGEST_S}, not {value!r}")
    return float(value)


class _CardTask:
    """The process that deals with one card."""

    def __init__(self, uuid: str, modes: CardModes) -> None:
        # Forked: NVML has not been loaded here yet, and twelve interpreters would take a Celeron
        # longer than the work does.
        context = multiprocessing.get_context("fork")
        self.uuid = uuid
        self._ours, theirs = context.Pipe(duplex=False)
        self._process: ForkProcess = context.Process(
            target=_deal_with, args=(uuid, modes, theirs), daemon=True
        )
        self._process.start()
        theirs.close()

    def said(self, deadline: float, timeout_s: float) -> Iterator[str | bool]:
        """Yield what it says until its end or the deadline; the last item tells whether it came."""
        try:
            while self._ours.poll(max(0.0, deadline - time.monotonic())):
                yield self._ours.recv()
        except EOFError:
            return
        # Not waited for: a process inside a driver that is stuck cannot even be killed.
        self._process.kill()
        yield f"the driver has not answered for {timeout_s:g} s; this card is left as it is"
        yield _UNREACHED


def _deal_with(uuid: str, modes: CardModes, pipe: Connection) -> None:
    try:
        for sentence in tune_card(uuid, modes):
            pipe.send(sentence)
        pipe.send(_REACHED)
    except UnreachableError as error:
        pipe.send(f"{error}; this card is left as it is")
        pipe.send(_UNREACHED)


def run(config: Config) -> bool:
    """Deal with all cards at a time and print what is done; tell whether any could be reached."""
    deadline = time.monotonic() + config.timeout_s
    tasks = [_CardTask(uuid, modes) for uuid, modes in config.cards.items()]
    reached = []
    for task in tasks:
        said = list(task.said(deadline, config.timeout_s))
        sentences = [item for item in said if isinstance(item, str)]
        for sentence in sentences or ["nothing to change"]:
            print(f"{task.uuid}: {sentence}", flush=True)
        reached.append(said[-1:] == [_REACHED])
    return any(reached)


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    if len(argv) != 1:
        print("usage: python -m heartcode.gpu.power CONFIG", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    try:
        config = Config.load(Path(argv[0]))
    except ConfigError as error:
        print(f"gpu_tune: {argv[0]} {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    return 0 if run(config) else _NO_CARD


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # Not sys.exit: multiprocessing would wait for processes that are stuck in the driver.
    os._exit(status)
