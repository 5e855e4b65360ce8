"""Requests to the model that counts, and what they must answer."""

import http.client
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests


class Door(Protocol):
    """A gateway, with the header that opens it."""

    @property
    def url(self) -> str: ...

    @property
    def authorization(self) -> dict[str, str]: ...


@dataclass(frozen=True, kw_only=True)
class ClientDoor:
    """A gateway, with the key of one of its clients."""

    url: str
    key: str = field(repr=False)

    @property
    def authorization(self) -> dict[str, str]:
        """The header that carries it."""
        return {"Authorization": f"Bearer {self.key}"}


def chat(
    where: Door | str, *, max_tokens: int, headers: Mapping[str, str] | None = None, **fields: Any
) -> requests.Response:
    """Ask for `max_tokens` numbers; streamed if `stream=True` is among the fields.

    A gateway is asked with its own key unless `headers` name another; a rig's proxy is given by its
    URL.
    """
    url, key = (where, {}) if isinstance(where, str) else (where.url, where.authorization)
    body = {
        "messages": [{"role": "user", "content": "Count!"}],
        "max_tokens": max_tokens,
        **fields,
    }
    return requests.post(
        f"{url}/v1/chat/completions",
        json=body,
        headers={**key, **(headers or {})},
        stream=bool(fields.get("stream")),
        timeout=120,
    )


def events(response: requests.Response) -> Iterator[dict[str, Any]]:
    """The JSON events of a stream, as they arrive; ends at `[DONE]`, which must come."""
    for line in response.iter_lines(chunk_size=1):
        if line == b"data: [DONE]":
            return
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))
    raise AssertionError("the stream ended without [DONE]")


def text_of(event: dict[str, Any]) -> str:
    """What one chat event adds to the answer."""
    choices = event.get("choices") or [{}]
    return choices[0].get("delta", {}).get("content") or ""


def count_to(number: int) -> list[str]:
    """What the model says, word by word."""
    return [str(n) for n in range(1, number + 1)]


@dataclass
class Count:
    """What became of one request to count.

    Attributes:
        last: The number that ends a whole answer.
        stream: Whether it was streamed.
        client: Who has asked, "" where that is one alone.
        began: When it was asked, by the monotonic clock, in seconds.
        ended: When it was over.
        status: Of the answer, 0 without one.
        numbers: Those that have come, in order.
        heard: When each event of a stream with a number came.
        error: What has ended it, "" where its end came.
    """

    last: int
    stream: bool
    client: str = ""
    began: float = field(default_factory=time.monotonic)
    ended: float = 0.0
    status: int = 0
    numbers: list[int] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def is_whole(self) -> bool:
        return not self.error and self.numbers == list(range(1, self.last + 1))

    @property
    def left_out(self) -> int:
        """Numbers that are missing before the last one that has come, or before the end."""
        until = max(self.numbers, default=0) if self.error else self.last
        return len(set(range(1, until + 1)) - set(self.numbers))

    @property
    def doubled(self) -> int:
        """Numbers that have come again, or that nobody has asked for."""
        return len(self.numbers) - len(set(self.numbers) & set(range(1, self.last + 1)))

    def __str__(self) -> str:
        what = f"{self.client} {'stream' if self.stream else 'whole'}".strip()
        until = f"{len(self.numbers)} numbers until {self.numbers[-1:]}"
        took = f"{self.ended - self.began:.1f} s"
        return f"{what}, status {self.status}, {until}, {took}: {self.error or 'ended'}"


def count(where: Door, text: str, made: Count, *, timeout_s: float = 120) -> Count:
    """Have one client count, and note in `made` what becomes of it; nothing that fails raises.

    Read line by line from the socket: thousands of events a second are to cost little of a machine
    that all of a fleet runs on.
    """
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": made.last, "stream": made.stream}
    told = urlsplit(where.url)
    connection = http.client.HTTPConnection(told.hostname or "", told.port, timeout=timeout_s)
    try:
        head = {"Content-Type": "application/json", **where.authorization}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), head)
        answer = connection.getresponse()
        made.status = answer.status
        if answer.status != http.client.OK:
            made.error = answer.read(500).decode(errors="replace")
        elif made.stream:
            _hear(answer, made)
        else:
            said = json.loads(answer.read())["choices"][0]["message"]["content"]
            made.numbers = list(map(int, said.split()))
    except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
        made.error = repr(error)
    finally:
        connection.close()
        made.ended = time.monotonic()
    return made


def _hear(answer: http.client.HTTPResponse, made: Count) -> None:
    while line := answer.readline():
        if line == b"data: [DONE]\n":
            return
        if line.startswith(b"data: "):
            event = json.loads(line[6:])
            if "error" in event:
                made.error = line.decode().strip()
                return
            if said := text_of(event):
                made.heard.append(time.monotonic())
                made.numbers += map(int, said.split())
    made.error = "the stream ended without [DONE]"
