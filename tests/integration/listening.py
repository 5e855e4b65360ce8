"""Clients that read a stream in the background, and what a stream has to be."""

from __future__ import annotations

import json
import threading
from typing import Any

from tests.integration.processes import PATIENCE_S, Proxy, wait_until

CHAT, COMPLETIONS, NATIVE = "/v1/chat/completions", "/v1/completions", "/completion"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Count, please."}]},
    COMPLETIONS: {"prompt": "Count, please:"},
    NATIVE: {"prompt": "Count, please:"},
}


def text_of(event: Any) -> str:
    if "content" in event:
        return str(event["content"])
    if not event["choices"]:
        return ""
    choice = event["choices"][0]
    return choice.get("text") or choice.get("delta", {}).get("content") or ""


class Listener:
    """A client that reads a stream in a thread and keeps its events.

    Attributes:
        events: those that have come so far.
        request_id: what the proxy calls the request, as soon as the answer has begun.
    """

    def __init__(self, proxy: Proxy, path: str, **fields: Any) -> None:
        self.events: list[Any] = []
        self.request_id = ""
        self._thread = threading.Thread(target=self._listen, args=(proxy, path, fields))
        self._thread.start()

    def _listen(self, proxy: Proxy, path: str, fields: dict[str, Any]) -> None:
        with proxy.stream(path, **{**ASKED[path], **fields}) as answer:
            answer.raise_for_status()
            self.request_id = answer.headers["X-Request-Id"]
            for line in answer.iter_lines(chunk_size=None):
                if line.startswith(b"data: {"):
                    self.events.append(json.loads(line.removeprefix(b"data: ")))

    @property
    def text(self) -> str:
        with_text = [event for event in self.events if event.keys() & {"choices", "content"}]
        return "".join(text_of(event) for event in with_text)

    def wait_for_text(self, text: str) -> None:
        wait_until(lambda: text in self.text, f"{text!r} has come", every_s=0.005)

    def finish(self) -> list[Any]:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.events


def assert_is_one_answer(told: list[Any]) -> None:
    for name in ("id", "model", "object"):
        assert len({event[name] for event in told}) == 1, name
    roles = [e for e in told if e["choices"] and "role" in e["choices"][0].get("delta", {})]
    assert len(roles) <= 1
