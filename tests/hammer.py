"""Clients that notice when nobody listens, or when an answer is not whole."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

import requests

from tests.counting import Count, Door, count


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


class Load(_Clients):
    """Clients that let the model count, again and again, and what became of each request.

    Each request is a conversation of its own, so all rigs get some.

    Attributes:
        told: what is over, in the order in which it ended.
    """

    def __init__(
        self,
        clients: Mapping[str, Door],
        *,
        streams: int,
        whole: int,
        numbers: int,
        pause_s: float = 0.3,
    ) -> None:
        """Have so many threads ask for streams, and so many for whole answers.

        Both kinds are shared out among the clients, each of which has a name.
        """
        super().__init__(
            threading.Thread(target=self._ask, args=(*client, stream))
            for stream, threads in ((True, streams), (False, whole))
            for client in itertools.islice(itertools.cycle(clients.items()), threads)
        )
        self.told: list[Count] = []
        self._numbers = numbers
        self._pause_s = pause_s
        self._names = itertools.count()

    def _ask(self, name: str, where: Door, stream: bool) -> None:  # noqa: FBT001 - of a thread
        # Steady, and something of a small machine is left for what is to be watched.
        while not self._done.wait(self._pause_s):
            text = f"Count, please, for the {next(self._names)}th time!"
            made = Count(last=self._numbers, stream=stream, client=name)
            self._note(count(where, text, made))

    def _note(self, made: Count) -> None:
        self.told.append(made)

    def wait_for_answers(self, limit_s: float = 180) -> None:
        """Return when as many requests as there are threads have been asked since and are whole."""
        since = time.monotonic()

        def come() -> int:
            return sum(made.began > since and made.is_whole for made in list(self.told))

        while come() < len(self._threads):
            assert time.monotonic() < since + limit_s, f"only {come()} whole answers: {self.last()}"
            time.sleep(0.1)

    def last(self) -> str:
        """The last things that went wrong, in words."""
        return "; ".join(str(made) for made in self.told if not made.is_whole)[-1000:]

    def _verify(self) -> None:
        assert self.told


class Conversations(Load):
    """A load of which every answer must be whole at the end of its `with`.

    Half of its clients ask for streams. `failures` says what was not whole; `answers` counts what
    was.
    """

    def __init__(self, where: Door, *, clients: int = 3, numbers: int = 120) -> None:
        super().__init__(
            {"": where}, streams=clients // 2, whole=clients - clients // 2, numbers=numbers
        )

    @property
    def answers(self) -> int:
        return sum(made.is_whole for made in self.told)

    def _note(self, made: Count) -> None:
        super()._note(made)
        if not made.is_whole:
            self.failures.append(str(made))
