"""Whether anybody waits for an answer: the client may leave, and the proxy may give it up."""

from __future__ import annotations

from collections.abc import Callable

from heartcode.errors import ApiError

# nginx's number for it; nobody is left to read it.
CLIENT_GONE_STATUS = 499


class ClientGoneError(Exception):
    """The client left before its answer was complete."""


class Client:
    """The client of one request, which may leave at any time.

    Attributes:
        gone: whether it has left, or was given up.
        error: why it was given up, to be told as its answer's end; None if it was not.
    """

    def __init__(self) -> None:
        self.gone = False
        self.error: ApiError | None = None
        self._leave: Callable[[], None] | None = None

    def when_gone(self, action: Callable[[], None]) -> None:
        """Call `action`, which must not block, when the client leaves; replaces a former one."""
        self._leave = action
        if self.gone:
            action()

    def has_left(self) -> None:
        """Note that the client has left."""
        self.gone = True
        if self._leave is not None:
            self._leave()

    def give_up(self, error: ApiError) -> None:
        """Work no more for this client, which is still there and will be told `error`."""
        if not self.gone:
            self.error = error
            self.has_left()
