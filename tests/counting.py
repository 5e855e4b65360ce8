"""Requests to the model that counts, and what they must answer."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import requests


class Door(Protocol):
    """A gateway, with the header that opens it."""

    @property
    def url(self) -> str: ...

    @property
    def authorization(self) -> dict[str, str]: ...


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
