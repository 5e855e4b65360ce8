"""Something that may take long, done beside the greenlet that wants it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import gevent


class Closable(Protocol):
    """What holds something until it is closed."""

    def close(self) -> None: ...  # noqa: D102


T = TypeVar("T", bound=Closable)


class Future(Generic[T]):
    """The result of `work`, which runs in a greenlet of its own, as soon as it is there.

    future = Future(work)
    while not future.is_there(within_s=15):
        ...
    result = future.take()
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T | None = None
        self._error: Exception | None = None
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:  # noqa: BLE001 - take() raises it where it is wanted
            self._error = error

    def is_there(self, *, within_s: float) -> bool:
        """Wait for at most `within_s` seconds; return whether `take()` will not block."""
        self._greenlet.join(within_s)
        return bool(self._greenlet.ready())

    def take(self) -> T:
        """Return the result, which is the caller's from now on, or raise what `work` raised."""
        self._greenlet.join()
        if self._error is not None:
            raise self._error
        result, self._result = self._result, None
        if result is None:
            raise RuntimeError("taken or given up before")
        return result

    def close(self) -> None:
        """Give up: end the work, and close its result if nobody took it."""
        self._greenlet.kill()
        if self._result is not None:
            self._result.close()
