"""Many requests, so many at a time."""

from __future__ import annotations

import itertools
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import requests

from heartcode_benchmark.asking import Answer, Server, ask
from heartcode_benchmark.results import Level

# What a chat app asks for.
SCENES = (
    "You keep a lighthouse on a stormy coast. A stranger knocks at night. What do you say?",
    "You are the last librarian of a sunken city. Show me the oldest book that you have.",
    "You are a smuggler with a slow ship and a fast tongue. Talk us through the customs.",
    "You are a clockmaker whose clocks run backwards. Explain it to a worried customer.",
    "You guard the gate of a walled garden. Tell me a story, then decide if I may enter.",
    "You cook in the galley of an airship. The captain hates your soup. Defend it.",
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What to ask.

    Attributes:
        requests: how many in all.
        max_tokens: of each answer.
        prompt: the same for all; None: scenes in turns. Each then begins with a mark of its own, so
            that no answer gains by a cache that an earlier run, or an earlier level, has filled.
    """

    requests: int
    max_tokens: int
    prompt: str | None = None

    def prompts(self) -> Iterator[str]:
        """Yield the prompt of each request."""
        scenes = itertools.cycle(SCENES)
        mark = secrets.token_hex(4)
        for number in range(1, self.requests + 1):
            yield self.prompt if self.prompt is not None else f"{mark}-{number}: {next(scenes)}"


def run(
    server: Server, work: Work, concurrency: int, *, on_answer: Callable[[Answer], None]
) -> Level:
    """Ask `work` of the server, `concurrency` requests at a time; return what was seen.

    `on_answer` is called for each answer as it ends. ^C ends it early: what has been answered by
    then counts, and `is_complete` is False. The requests under way end with the process, which the
    server sees as clients that leave.
    """
    prompts: queue.SimpleQueue[str] = queue.SimpleQueue()
    for prompt in work.prompts():
        prompts.put(prompt)
    # What an interrupt finds is what has been answered, whether or not that was told already.
    seen: list[Answer] = []
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def client() -> None:
        with requests.Session() as session:
            while True:
                try:
                    prompt = prompts.get_nowait()
                except queue.Empty:
                    return
                answer = ask(session, server, prompt, work.max_tokens)
                seen.append(answer)
                answers.put(answer)

    started = time.monotonic()
    for _ in range(min(concurrency, work.requests)):
        threading.Thread(target=client, daemon=True).start()
    try:
        for _ in range(work.requests):
            on_answer(answers.get())
    except KeyboardInterrupt:
        while not prompts.empty():
            prompts.get_nowait()
    seconds = time.monotonic() - started
    answered = list(seen)
    return Level(
        concurrency=concurrency,
        seconds=seconds,
        answers=answered,
        is_complete=len(answered) == work.requests,
    )
