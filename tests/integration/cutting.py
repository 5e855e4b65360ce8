"""What stands between the proxy and a real llama-server, and hangs up where a test wants it to."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence

import requests

from tests.integration.misbehaving import Connection, Request
from tests.integration.processes import PATIENCE_S

_PASSED_ON = ("content-type", "accept")


class Cutter:
    """Passes everything on to the llama-server at `url`, and cuts the stream that it is told to.

    Two upstreams have to behave like this, so that the proxy can move from one to the other:

        cutter = Cutter(llama.url)
        proxy = start_proxy(start_upstream(cutter).url, start_upstream(cutter).url)

    Attributes:
        url: where the llama-server is.
        recorded: the events of the stream that was passed on last.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._lock = threading.Lock()
        self._replayed: Sequence[bytes] | None = None
        self.recorded: list[bytes] = []

    def cut_after(self, events: Sequence[bytes]) -> None:
        """Answer the next stream with these events, which were recorded, and hang up."""
        self._replayed = events

    def __call__(self, connection: Connection, request: Request) -> None:
        """Serve one request."""
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        is_stream = b'"stream": true' in request.body or b'"stream":true' in request.body
        with self._lock:
            replayed = self._replayed if is_stream else None
            if is_stream:
                self._replayed = None
        if replayed is not None:
            connection.start_stream()
            for event in replayed:
                connection.chunk(event)
            return  # as when a process is killed: all that was written arrives, and no end of it
        # Its llama-server may end first, when the test is over.
        with contextlib.suppress(requests.RequestException):
            self._pass_on(connection, request, headers)

    def _pass_on(
        self, connection: Connection, request: Request, headers: Mapping[str, str]
    ) -> None:
        with requests.request(
            request.method,
            self.url + request.path,
            data=request.body,
            headers=headers,
            stream=True,
            timeout=PATIENCE_S,
        ) as answer:
            content_type = answer.headers.get("Content-Type", "")
            if not content_type.startswith("text/event-stream"):
                connection.answer(f"{answer.status_code} {answer.reason}", answer.content)
                return
            connection.start_stream()
            # Before they go out: the client may have the last one before this goes on.
            recorded = self.recorded = []
            rest = b""
            for data in answer.iter_content(chunk_size=None):
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    recorded.append(event + b"\n\n")
                    connection.chunk(recorded[-1])
            connection.send(b"0\r\n\r\n")
