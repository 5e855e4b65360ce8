"""The clients of a benchmark: streams that start evenly spread and check what they get.

    python -m tools.bench.load URL --streams 100 --tokens 100 --rate 25

prints one JSON object: the times to the first token in seconds, and what was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

_TOKEN = re.compile(rb'"content": ?" (\d+)"')
# About what a scene in a role-play chat has said so far; 400 tokens.
_SAID = "The lamps went out one by one as the tide crept over the stones of the old harbour. " * 20
_DONE = b"data: [DONE]"
_GIVE_UP_AFTER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What each stream asks for, and over how many seconds the streams start."""

    url: str
    streams: int
    tokens: int
    rate: float
    start_within_s: float

    def request(self, number: int) -> bytes:
        """Return the HTTP request of a stream; each is a conversation of its own."""
        parts = urlsplit(self.url)
        fields = {
            "model": "bench",
            "messages": [{"role": "user", "content": f"{number}: {_SAID}"}],
            "max_tokens": self.tokens,
            "stream": True,
            "tokens_per_second": self.rate,
        }
        body = json.dumps(fields)
        return (
            f"POST {parts.path}/v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: application/json\r\nAuthorization: Bearer bench\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()


class Client(asyncio.Protocol):
    """One stream; `done` brings the seconds to its first token."""

    def __init__(self, request: bytes, tokens: int) -> None:
        self._request = request
        self._tokens = tokens
        self._expected = 1
        self._unread = b""
        self._first_s: float | None = None
        self._loop = asyncio.get_running_loop()
        self._asked = self._loop.time()
        self.done: asyncio.Future[float] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count the tokens."""
        data = self._unread + data
        read_to = 0
        for match in _TOKEN.finditer(data):
            if self._first_s is None:
                self._first_s = self._loop.time() - self._asked
            if int(match[1]) != self._expected:
                self._finish(f"token {match[1].decode()} came where {self._expected} should")
                return
            self._expected += 1
            read_to = match.end()
        self._unread = data[
            read_to:
        ]  # a token that is torn in two is found when both halves are there
        if _DONE in self._unread:
            self._finish(None if self._expected == self._tokens + 1 else "the end came too early")

    def connection_lost(self, _: Exception | None) -> None:
        """Fail, unless all of it has come."""
        self._finish(f"hung up after {self._expected - 1} tokens: {self._unread[:200]!r}")

    def _finish(self, wrong: str | None) -> None:
        if self.done.done():
            return
        if wrong is None and self._first_s is not None:
            self.done.set_result(self._first_s)
        else:
            self.done.set_exception(ValueError(wrong))
        self._transport.close()


async def run(work: Work) -> dict[str, list[float] | list[str]]:
    """Run all streams; return the times to their first tokens, in seconds, and the errors."""
    parts = urlsplit(work.url)
    loop = asyncio.get_running_loop()

    async def one(number: int) -> float:
        await asyncio.sleep(work.start_within_s * number / work.streams)
        request = work.request(number)
        async with asyncio.timeout(_GIVE_UP_AFTER_S + work.tokens / work.rate):
            _, client = await loop.create_connection(
                lambda: Client(request, work.tokens), str(parts.hostname), int(parts.port or 80)
            )
            return await client.done

    results = await asyncio.gather(
        *(one(number) for number in range(work.streams)), return_exceptions=True
    )
    return {
        "first_token_s": [r for r in results if isinstance(r, float)],
        "errors": [repr(r) for r in results if not isinstance(r, float)],
    }


def main() -> None:
    """Read the work from the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--start-within", type=float, default=1.0)
    given = parser.parse_args()
    work = Work(
        url=given.url,
        streams=given.streams,
        tokens=given.tokens,
        rate=given.rate,
        start_within_s=given.start_within,
    )
    json.dump(asyncio.run(run(work)), sys.stdout)


if __name__ == "__main__":
    main()
