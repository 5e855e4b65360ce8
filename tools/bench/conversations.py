"""Conversations that go on turn by turn, and how much of their prompts came from caches.

The model counts, so that every answer is known beforehand: a benchmark that got another one stops.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import requests
from heartcode_benchmark.asking import Answer, Message, Server, ask

_SETTING = (
    "The lamps went out one by one as the tide crept over the stones of the old harbour. "
    "You keep the lighthouse and count the ships. "
)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the conversations are like; lengths in characters, a token each for this model.

    Attributes:
        conversations, turns: how many of them, and how many turns each has.
        at_a_time: how many requests are on their way.
        system_chars, turn_chars: how long the system's words and a user's are.
        answer_tokens: how many numbers an answer counts.
    """

    conversations: int = 32
    turns: int = 8
    at_a_time: int = 4
    system_chars: int = 600
    turn_chars: int = 60
    answer_tokens: int = 20

    def messages(self, mark: str, number: int, turn: int) -> list[Message]:
        """Return what conversation `number` sends for its turn; each differs from its beginning."""
        system = f"{mark} {number}: " + _SETTING * (self.system_chars // len(_SETTING) + 1)
        answer = "".join(f" {count}" for count in range(1, self.answer_tokens + 1))
        messages = [{"role": "system", "content": system[: self.system_chars]}]
        for each in range(turn + 1):
            said = f"{each}. " + _SETTING
            messages.append({"role": "user", "content": said[: self.turn_chars] + "?"})
            messages.append({"role": "assistant", "content": answer})
        return list(messages[:-1])

    def arrivals(self, seed: int) -> list[int]:
        """Return whose turn comes when: all turns of all conversations, shuffled."""
        order = [number for number in range(self.conversations) for _ in range(self.turns)]
        random.Random(seed).shuffle(order)  # noqa: S311 (the same order in every run)
        return order


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn that was answered; `asked` and `ended` on the monotonic clock, in seconds."""

    number: int
    turn: int
    request_id: str
    asked: float
    ended: float
    answer: Answer


@dataclass
class Arrivals:
    """Hands out the turns in their order; one whose conversation waits for an answer is passed."""

    order: list[int]
    _at: dict[int, int] = field(default_factory=dict)
    _busy: set[int] = field(default_factory=set)
    _change: threading.Condition = field(default_factory=threading.Condition)

    def take(self) -> tuple[int, int] | None:
        """Return the next conversation and its turn, None after the last one."""
        with self._change:
            while self.order:
                for place, number in enumerate(self.order):
                    if number not in self._busy:
                        del self.order[place]
                        self._busy.add(number)
                        turn = self._at.get(number, 0)
                        self._at[number] = turn + 1
                        return number, turn
                self._change.wait()
            return None

    def give_back(self, number: int) -> None:
        """Say that a conversation has its answer."""
        with self._change:
            self._busy.discard(number)
            self._change.notify_all()


def hold(server: Server, shape: Shape, *, mark: str, seed: int) -> list[Turn]:
    """Hold all conversations; return their turns in the order in which they were answered.

    Raises:
        RuntimeError: when a turn was not answered, or not completely.
    """
    arrivals = Arrivals(shape.arrivals(seed))
    done: list[Turn] = []
    failures: list[str] = []

    def client() -> None:
        with requests.Session() as session:
            while not failures and (taken := arrivals.take()) is not None:
                number, turn = taken
                request_id = f"{mark}-{number}-{turn}"
                messages = shape.messages(mark, number, turn)
                asked = time.monotonic()
                answer = ask(session, server, messages, shape.answer_tokens, request_id=request_id)
                ended = time.monotonic()
                if answer.error or answer.tokens != shape.answer_tokens:
                    failures.append(f"{request_id}: {answer.error} {answer.detail}".strip())
                done.append(
                    Turn(
                        number=number,
                        turn=turn,
                        request_id=request_id,
                        asked=asked,
                        ended=ended,
                        answer=answer,
                    )
                )
                arrivals.give_back(number)

    clients = [threading.Thread(target=client) for _ in range(shape.at_a_time)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    if failures:
        raise RuntimeError(f"{len(failures)} turns failed, the first: {failures[0]}")
    return done


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """What the caches gave: tokens, and the median seconds to the first token of later turns."""

    reusable: int
    reused: int
    first_token_s: float

    @property
    def share(self) -> float:
        """The part of what a perfect cache could have given that was given."""
        return self.reused / self.reusable

    @classmethod
    def of(cls, turns: Sequence[Turn]) -> Reuse:
        """Compare each turn's cached tokens with what a perfect cache would have held.

        That is the conversation's last prompt and its answer but for the last token, which no
        llama-server has evaluated. First turns have nothing in common with what came before.
        """
        at = {(turn.number, turn.turn): turn.answer for turn in turns}
        reusable = reused = 0
        waits = []
        for (number, turn), answer in at.items():
            if turn == 0:
                continue
            last = at[number, turn - 1]
            possible = min(last.prompt_tokens + last.tokens - 1, answer.prompt_tokens - 1)
            reusable += possible
            reused += min(answer.cached_tokens, possible)
            if answer.first_token_s is not None:
                waits.append(answer.first_token_s)
        return cls(reusable=reusable, reused=reused, first_token_s=statistics.median(waits))
