"""The clients of a benchmark: streams that start evenly spread and check what they get.

    python -m tools.bench.load URL --streams 100 --tokens 100 --rate 25

prints one JSON object, an `Outcome`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of some work: times in seconds, and what was wrong with single streams.

    `late_s` is how long after its time the 99th of 100 tokens came, see `lateness_s`; `at_a_time`
    the largest number of streams that were between their first token and their last.
    """

    first_token_s: list[float]
    late_s: float
    at_a_time: int
    errors: list[str]


def lateness_s(arrived_s: Sequence[float], interval_s: float) -> list[float]:
    """Return how late each token of a stream is, measured at the one that came in best time.

    The first token is left out: it comes with the prompt, the others with the steps of decoding.
    """
    moved = [at - number * interval_s for number, at in enumerate(arrived_s)][1:]
    best = min(moved, default=0.0)
    return [at - best for at in moved]


class AtATime:
    """How many streams are between their first token and their last, and were at most."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def begin(self) -> None:
        """Count one more."""
        self.now += 1
        self.most = max(self.most, self.now)

    def end(self) -> None:
        """Count one less."""
        self.now -= 1


class Client(asyncio.Protocol):
    """One stream; `done` brings the times at which its tokens came, in seconds after it asked."""

    def __init__(self, request: bytes, tokens: int, at_a_time: AtATime) -> None:
        self._request = request
        self._tokens = tokens
        self._at_a_time = at_a_time
        self._expected = 1
        self._unread = b""
        self._arrived_s: list[float] = []
        self._loop = asyncio.get_running_loop()
        self._asked = self._loop.time()
        self.done: asyncio.Future[list[float]] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Count the tokens."""
        data = self._unread + data
        read_to = 0
        for match in _TOKEN.finditer(data):
            if not self._arrived_s:
                self._at_a_time.begin()
            self._arrived_s.append(self._loop.time() - self._asked)
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
        if self._arrived_s:
            self._at_a_time.end()
        if wrong is None:
            self.done.set_result(self._arrived_s)
        else:
            self.done.set_exception(ValueError(wrong))
        self._transport.close()


async def run(work: Work) -> Outcome:
    """Run all streams."""
    parts = urlsplit(work.url)
    loop = asyncio.get_running_loop()
    at_a_time = AtATime()

    async def one(number: int) -> list[float]:
        await asyncio.sleep(work.start_within_s * number / work.streams)
        request = work.request(number)
        async with asyncio.timeout(_GIVE_UP_AFTER_S + work.tokens / work.rate):
            _, client = await loop.create_connection(
                lambda: Client(request, work.tokens, at_a_time),
                str(parts.hostname),
                int(parts.port or 80),
            )
            return await client.done

    results = await asyncio.gather(
        *(one(number) for number in range(work.streams)), return_exceptions=True
    )
    whole = [result for result in results if isinstance(result, list)]
    late_s = sorted(late for arrived_s in whole for late in lateness_s(arrived_s, 1 / work.rate))
    return Outcome(
        first_token_s=[arrived_s[0] for arrived_s in whole],
        late_s=late_s[len(late_s) * 99 // 100] if late_s else 0.0,
        at_a_time=at_a_time.most,
        errors=[repr(result) for result in results if not isinstance(result, list)],
    )


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
    json.dump(asdict(asyncio.run(run(work))), sys.stdout)


if __name__ == "__main__":
    main()
