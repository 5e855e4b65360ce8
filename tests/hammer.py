"""Clients that notice when nobody listens, or when an answer is not whole."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Self

import requests

from tests.counting import Door, chat, count_to, events, text_of


class _Clients:
    """Threads that ask until the end of a `with`; nothing of what they have asked may have failed.

    Attributes:
        failures: what did, in words.
    """

    def __init__(self, threads: Iterable[threading.Thread]) -> None:
        self.failures: list[str] = []
        self._done = threading.Event()
        self._threads = list(threads)

    def _verify(self) -> None:
        """Assert what else has to hold at the end."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            assert self.failures == []
            self._verify()


class Hammer(_Clients):
    """Asks for `url` again and again, each time on a new connection.

    At the end of its `with` every request must have been answered with 200.
    """

    def __init__(self, url: str, *, clients: int = 4) -> None:
        super().__init__(threading.Thread(target=self._ask) for _ in range(clients))
        self.statuses: list[int] = []
        self._url = url

    def _ask(self) -> None:
        while not self._done.is_set():
            try:
                answer = requests.get(self._url, headers={"Connection": "close"}, timeout=60)
            except requests.RequestException as error:
                self.failures.append(repr(error))
                return
            self.statuses.append(answer.status_code)

    def wait_for_answers(self) -> None:
        """Return when clients that ask from now on have been answered."""
        enough = len(self.statuses) + 2 * len(self._threads)
        deadline = time.monotonic() + 60
        while len(self.statuses) < enough and not self.failures:
            assert time.monotonic() < deadline, f"{self._url} answers no more"
            time.sleep(0.02)

    def _verify(self) -> None:
        assert set(self.statuses) == {200}


class Conversations(_Clients):
    """Clients that let the model count, again and again, half of them in streams.

    Each request is a conversation of its own, so all rigs get some. At the end of its `with` every
    answer must have been whole. `failures` says what was not; `answers` counts what was.
    """

    def __init__(self, where: Door, *, clients: int = 3, numbers: int = 120) -> None:
        super().__init__(
            threading.Thread(target=self._ask, args=(bool(number % 2),))
            for number in range(clients)
        )
        self.answers = 0
        self._where = where
        self._numbers = numbers
        self._names = itertools.count()

    def _ask(self, stream: bool) -> None:  # noqa: FBT001 - of a thread
        # Steady, and something of a small machine is left for what is to be watched.
        while not self._done.wait(0.3):
            name = next(self._names)
            try:
                said = self._answer(f"Count, please, for the {name}th time!", stream=stream)
            except (requests.RequestException, AssertionError, ValueError, KeyError) as error:
                self.failures.append(f"{name}: {error!r}")
                continue
            if said != count_to(self._numbers):
                self.failures.append(f"{name}: {len(said)} numbers: {said[-3:]}")
            else:
                self.answers += 1

    def _answer(self, text: str, *, stream: bool) -> list[str]:
        messages = [{"role": "user", "content": text}]
        with chat(
            self._where, max_tokens=self._numbers, messages=messages, stream=stream
        ) as response:
            assert response.status_code == 200, response.text
            if stream:
                return "".join(map(text_of, events(response))).split()
            return str(response.json()["choices"][0]["message"]["content"]).split()

    def _verify(self) -> None:
        assert self.answers > 0
