"""The end of a stream that the proxy itself gives up."""

from __future__ import annotations

from collections.abc import Iterator

from heartcode.client import Client
from heartcode.relay import sse
from heartcode.relay.client_stream import EventStream


class WithFarewell:
    """An `EventStream` whose last event is the reason when its client was given up.

    To the stream that looks as if the client had left, so it ends without a word.
    """

    def __init__(self, stream: EventStream, client: Client) -> None:
        self._stream = stream
        self._client = client

    def __iter__(self) -> Iterator[bytes]:
        yield from self._stream
        if self._client.error is not None and self._stream.outcome == "disconnected":
            yield sse.data_event(self._client.error.body())

    def close(self) -> None:
        """End the stream, finished or not."""
        self._stream.close()
