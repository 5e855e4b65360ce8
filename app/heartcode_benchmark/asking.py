"""One streamed chat completion, as its client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import requests
from urllib3.exceptions import HTTPError

_READ_BYTES = 64 * 1024
_DATA = b"data:"

#: A turn of a chat: role and content.
Message = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Server:
    """Whom to ask.

    Attributes:
        url: without `/v1`.
        key: the API key; "" for none. It is not shown when this is printed.
        model: what is asked for; "" leaves the choice to the server.
        timeout_s: seconds for which the server may send nothing.
    """

    url: str
    key: str = field(default="", repr=False)
    model: str = ""
    timeout_s: float = 600.0

    def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@dataclass(kw_only=True)
class Answer:
    """One answer; all times in seconds.

    Attributes:
        error: "" for a complete answer, else its kind: the HTTP status ("http_429"), "timeout",
            "unreachable", "stream_error" (an error event) or "cut" (an end without `[DONE]`).
        detail: what the server said about it.
        first_token_s: from the request to the first text; None if there was none.
        total_s: from the request to the end.
        gaps_s: between one text and the next.
        tokens: of the answer, as the server counts them, or else the events with a text.
        prompt_tokens, cached_tokens: of the prompt, where the server tells.
    """

    error: str = ""
    detail: str = ""
    first_token_s: float | None = None
    total_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0


class _FailedError(Exception):
    def __init__(self, kind: str, detail: object = "") -> None:
        super().__init__(kind)
        self.kind = kind
        self.detail = str(detail)


def ask(
    session: requests.Session,
    server: Server,
    said: str | Sequence[Message],
    max_tokens: int,
    *,
    request_id: str = "",
) -> Answer:
    """Ask, and read the answer to its end; what goes wrong is in the answer, never raised.

    What is said is a chat's first turn, or all of its turns.
    """
    answer = Answer()
    started = time.monotonic()
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else list(said)
    body = {"messages": messages, "max_tokens": max_tokens}
    headers = {"X-Request-Id": request_id} if request_id else {}
    try:
        _read(_events(session, server, body, headers), answer, started)
    except _FailedError as failed:
        answer.error, answer.detail = failed.kind, failed.detail
    answer.total_s = time.monotonic() - started
    return answer


def _events(
    session: requests.Session,
    server: Server,
    fields: Mapping[str, Any],
    headers: Mapping[str, str],
) -> Iterator[bytes]:
    """Yield what follows `data:`, event by event.

    Raises:
        _FailedError: when there is no stream, or it breaks off.
    """
    body = {**fields, "stream": True, "stream_options": {"include_usage": True}}
    if server.model:
        body["model"] = server.model
    begun = False
    try:
        with session.post(
            f"{server.url}/v1/chat/completions",
            json=body,
            headers={**server.headers(), **headers},
            timeout=server.timeout_s,
            stream=True,
        ) as response:
            if not response.ok:
                raise _FailedError(f"http_{response.status_code}", _message(response))
            begun, unread = True, b""
            for piece in _pieces(response):
                *lines, unread = (unread + piece).split(b"\n")
                for line in lines:
                    if line.startswith(_DATA):
                        yield line.removeprefix(_DATA).strip()
    except (requests.RequestException, HTTPError, OSError) as error:
        raise _FailedError(_kind(error, begun=begun), type(error).__name__) from error


def _kind(error: Exception, *, begun: bool) -> str:
    # A silence in the middle of the body comes as a ConnectionError with the timeout inside.
    if isinstance(error, requests.Timeout) or "ReadTimeoutError" in repr(error.args):
        return "timeout"
    return "cut" if begun else "unreachable"


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Yield the body as it arrives."""
    if getattr(response.raw, "chunked", False):
        yield from response.iter_content(chunk_size=None)
        return
    # iter_content() would wait for the end of a body without chunks.
    while piece := response.raw.read1(_READ_BYTES):
        yield piece


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return response.reason or ""


def _read(events: Iterator[bytes], answer: Answer, started: float) -> None:
    last = started
    texts = 0
    for event in events:
        now = time.monotonic()
        if event == b"[DONE]":
            answer.tokens = answer.tokens or texts
            return
        payload = _payload(event)
        if "error" in payload:
            error = payload["error"]
            raise _FailedError(
                "stream_error", error.get("message") if isinstance(error, dict) else ""
            )
        if _has_text(payload):
            texts += 1
            if answer.first_token_s is None:
                answer.first_token_s = now - started
            else:
                answer.gaps_s.append(now - last)
            last = now
        _note_usage(payload, answer)
    raise _FailedError("cut", "the stream ended without [DONE]")


def _payload(event: bytes) -> dict[str, Any]:
    try:
        payload = json.loads(event)
    except ValueError as error:
        raise _FailedError("stream_error", "an event that is not JSON") from error
    if not isinstance(payload, dict):
        raise _FailedError("stream_error", "an event that is not a JSON object")
    return payload


def _has_text(payload: dict[str, Any]) -> bool:
    for choice in payload.get("choices") or []:
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("reasoning_content"):
            return True
    return False


def _note_usage(payload: dict[str, Any], answer: Answer) -> None:
    usage = payload.get("usage")
    if not isinstance(usage, dict):
        return
    answer.tokens = usage.get("completion_tokens") or 0
    answer.prompt_tokens = usage.get("prompt_tokens") or 0
    details = usage.get("prompt_tokens_details") or {}
    answer.cached_tokens = details.get("cached_tokens") or 0
