"""A llama-server without a model: it streams numbered tokens at a fixed rate.

    python -m tools.bench.upstream [--apart] PORT [PORT ...]

It writes the events of the real one byte for byte, prepared beforehand, so that it can feed
thousands of streams. Every second it prints as JSON how late its tokens were: a run in which it did
not keep its own time measures the upstream and is worth nothing.

The request's body says what to send: `max_tokens` events, `tokens_per_second` of them a second.
Each port is a llama-server: one step of decoding gives every stream on it a token, so these leave
together. With `--apart` every stream keeps a time of its own, which no llama-server does.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
from functools import cache, partial
from typing import cast

_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
# As far as the proxy reads it.
_MODELS = b'{"object":"list","data":[{"id":"bench","aliases":["bench"],"meta":{"n_ctx":8192}}]}'
_COMMON = '"created":1767225600,"id":"chatcmpl-0","model":"bench","object":"chat.completion.chunk"'


def _chunk(payload: str) -> bytes:
    event = f"data: {payload}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


@cache
def _token(number: int) -> bytes:
    delta = json.dumps({"content": f" {number}"}, separators=(",", ":"))
    choices = f'[{{"finish_reason":null,"index":0,"delta":{delta}}}]'
    return _chunk(f'{{"choices":{choices},{_COMMON}}}')


@cache
def _end(tokens: int) -> bytes:
    timings = {
        "cache_n": 0,
        "prompt_n": 400,
        "prompt_ms": 1000.0,
        "predicted_n": tokens,
        "predicted_ms": tokens * 40.0,
    }
    choices = '[{"finish_reason":"length","index":0,"delta":{}}]'
    last = _chunk(f'{{"choices":{choices},{_COMMON},"timings":{json.dumps(timings)}}}')
    return last + _chunk("[DONE]") + b"0\r\n\r\n"


def _whole() -> bytes:
    """Answer the proxy's probes, which ask for one token of /completion, or for a sign of life."""
    return _answer(b'{"content":" 1","stop":true,"timings":{"prompt_n":11,"predicted_n":1}}')


def _answer(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


class Lateness:
    """How long after their time tokens were written, since the last report."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self.tokens = 0

    def note(self, seconds: float) -> None:
        """Note how late a token is."""
        self.tokens += 1
        self.worst_s = max(self.worst_s, seconds)

    async def report(self) -> None:
        """Print a line for every second in which there were tokens."""
        while True:
            await asyncio.sleep(1)
            late = {"tokens": self.tokens, "worst_late_s": round(self.worst_s, 4)}
            if self.tokens:
                print(json.dumps(late), flush=True)
            self.worst_s, self.tokens = 0.0, 0


class Stream(asyncio.Protocol):
    """One connection, which serves one request after the other.

    Its tokens leave at multiples of the interval after `epoch_s`, or after the first one.
    """

    def __init__(self, lateness: Lateness, epoch_s: float | None) -> None:
        self._lateness = lateness
        self._epoch_s = epoch_s
        self._received = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request."""
        self._transport = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()

    def connection_lost(self, _: Exception | None) -> None:
        """Stop."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Read a request and begin with its answer."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        if not end or len(body) < (int(found[1]) if found else 0):
            return
        self._received = b""
        if head.startswith(b"GET /v1/models "):
            self._transport.write(_answer(_MODELS))
            return
        fields = json.loads(body or b"{}")
        if not fields.get("stream"):
            self._transport.write(_whole())
            return
        self._tokens = fields["max_tokens"]
        self._interval_s = 1 / fields["tokens_per_second"]
        self._sent = 0
        self._due = self._loop.time()
        self._transport.write(_HEAD)
        self._send()

    def _send(self) -> None:
        self._lateness.note(self._loop.time() - self._due)
        self._sent += 1
        self._transport.write(_token(self._sent))
        if self._sent == self._tokens:
            self._transport.write(_end(self._tokens))
            return
        self._due += self._interval_s
        if self._sent == 1 and self._epoch_s is not None:
            # The first token is the prompt's; the others come with the steps of decoding.
            steps = math.floor((self._due - self._epoch_s) / self._interval_s)
            self._due = self._epoch_s + steps * self._interval_s
        self._timer = self._loop.call_at(self._due, self._send)


async def serve(ports: list[int], *, apart: bool) -> None:
    """Serve on all ports until killed."""
    lateness = Lateness()
    loop = asyncio.get_running_loop()
    for number, port in enumerate(ports):
        # The llama-servers of a rig do not decode in step.
        epoch_s = None if apart else loop.time() + number / len(ports)
        make = partial(Stream, lateness, epoch_s)
        await loop.create_server(make, "127.0.0.1", port, backlog=4096)
    print(json.dumps({"ready": True}), flush=True)
    await lateness.report()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ports", type=int, nargs="+", metavar="PORT")
    parser.add_argument("--apart", action="store_true")
    given = parser.parse_args()
    asyncio.run(serve(given.ports, apart=given.apart))


if __name__ == "__main__":
    main()
