"""Clients that notice when nobody listens."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import requests


class Hammer:
    """Asks for `url` again and again, each time on a new connection.

    At the end of its `with` every request must have been answered with 200.
    """

    def __init__(self, url: str, *, clients: int = 4) -> None:
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._url = url
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

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

    def __enter__(self) -> Hammer:
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
            assert set(self.statuses) == {200}
