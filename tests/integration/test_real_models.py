"""Answers of real models that go on elsewhere: token for token what they would have been.

The counting model's numbers are a token each, and its template adds nothing to an answer. Real
tokenizers divide characters, join blank lines and write a word differently where a text ends.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import StartLlamas, StartProxy, StartUpstream
from tests.integration.cutting import Cutter
from tests.integration.listening import (
    CHAT,
    COMPLETIONS,
    NATIVE,
    Listener,
    assert_is_one_answer,
    text_of,
)
from tests.integration.processes import Proxy
from tools.bench.real_models import GEMMA3, SMOLLM2, RealModel

pytestmark = pytest.mark.long

# Always the likeliest token; and the next backend computes all of the prompt, as if it were new.
GREEDY = {"temperature": 0, "cache_prompt": False, "max_tokens": 48}


def chat(text: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"messages": [{"role": "user", "content": text}], **fields}


def begun(text: str, own: str) -> tuple[str, dict[str, Any]]:
    path, fields = chat(text)
    fields["messages"].append({"role": "assistant", "content": own})
    return path, fields


CODE = "Write a Python function that adds two numbers, with a docstring and an example."
JAPANESE = "日本の首都は"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "prose": chat("Tell me a short story about a lighthouse."),
    "code": chat(CODE),
    "a list": chat("List five fruits. Put a blank line between them."),
    "a table": chat("Make a markdown table of three planets and their sizes."),
    "Japanese": chat("Write two sentences about Mount Fuji in Japanese."),
    "emoji": chat("Answer with many emoji: what is a party like?"),
    "begun by the client": begun("Who are you?", "Well,\n\n"),
    "a stop string": chat("Count from one to ten in words.", stop=["seven", "\n\n\n"]),
    "a completion": (COMPLETIONS, {"prompt": "The lighthouse keeper opened the door and"}),
    "paragraphs": (COMPLETIONS, {"prompt": "# A letter\n\nDear friend,\n\n"}),
    "code to go on with": (COMPLETIONS, {"prompt": "def fibonacci(n):\n    "}),
    "a Japanese completion": (COMPLETIONS, {"prompt": JAPANESE}),
    "llama-server's own": (NATIVE, {"prompt": "Once upon a time,\n\n"}),
    "llama-server's own in Japanese": (NATIVE, {"prompt": JAPANESE}),
}


@pytest.fixture(scope="module", params=[SMOLLM2, GEMMA3], ids=lambda model: model.name)
def real(
    request: pytest.FixtureRequest,
    lasting_llamas: StartLlamas,
    lasting_proxy: StartProxy,
    lasting_upstream: StartUpstream,
) -> Iterator[tuple[Cutter, Proxy]]:
    """A real model behind a proxy whose streams can be cut."""
    model: RealModel = request.param
    (llama,) = lasting_llamas(1, model=model.file(), flags="-c 8192")
    cutter = Cutter(llama.url)
    yield cutter, lasting_proxy(lasting_upstream(cutter).url, lasting_upstream(cutter).url)
    llama.kill()


def seams(events: list[bytes]) -> list[int]:
    """Return after how many events to cut: in the middle, and where reading back may fail.

    That is behind blank lines and other white space, and within what is not ASCII. The first event
    with a text is no such place: before it the request begins anew.
    """
    texts = [_text(event) for event in events]
    with_text = [i for i, text in enumerate(texts) if text]
    inner = with_text[1:-1]
    delicate = [i for i in inner if texts[i].isspace() or not texts[i].isascii()]
    blank = [i for i in inner if re.search(r"\n\s*\n$", "".join(texts[: i + 1]))]
    some = {inner[len(inner) // 2], *blank[:1], *blank[-1:], *delicate[:1], *delicate[-1:]}
    return sorted(i + 1 for i in some)


def _text(event: bytes) -> str:
    if not event.startswith(b"data: {"):
        return ""
    return text_of(json.loads(event.removeprefix(b"data: ")))


def told(events: list[Any]) -> dict[str, Any]:
    """Return what the end of a stream tells of its length."""
    if "stop" in events[-1]:
        names = ("tokens_predicted", "tokens_evaluated", "stop_type", "prompt")
        return {name: events[-1][name] for name in names}
    (usage,) = (event["usage"] for event in events if event.get("usage"))
    (reason,) = {c["finish_reason"] for e in events for c in e["choices"]} - {None}
    return {"reason": reason, **{name: usage[name] for name in usage if name.endswith("_tokens")}}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_the_same_wherever_it_is_cut(real: tuple[Cutter, Proxy], name: str) -> None:
    cutter, proxy = real
    path, fields = CASES[name]
    asked = {**GREEDY, "stream_options": {"include_usage": True}, **fields}
    unbroken = Listener(proxy, path, **asked)
    unbroken.finish()
    recorded = cutter.recorded
    differing = []
    places = seams(recorded)
    assert places
    for place in places:
        cutter.cut_after(recorded[:place])
        stream = Listener(proxy, path, **asked)
        stream.finish()
        if path != NATIVE:
            assert_is_one_answer(stream.events)
        if (stream.text, told(stream.events)) != (unbroken.text, told(unbroken.events)):
            seen = "".join(map(_text, recorded[:place]))
            differing.append((seen[-20:], stream.text[len(seen) :][:30], told(stream.events)))
    assert differing == [], (unbroken.text, told(unbroken.events))


@pytest.mark.parametrize("name", ["prose", "a Japanese completion"])
def test_an_answer_is_the_same_when_its_llama_server_is_killed(
    llama_servers: StartLlamas, start_proxy: StartProxy, name: str
) -> None:
    dying, living = llama_servers(2, model=SMOLLM2.file(), flags="-c 8192")
    proxy = start_proxy(dying.url, living.url)
    path, fields = CASES[name]
    asked = {**GREEDY, "max_tokens": 200, "stream_options": {"include_usage": True}, **fields}
    with proxy.stream(path, **asked) as answer:
        lines = (line for line in answer.iter_lines(chunk_size=None) if line.startswith(b"data: {"))
        events = []
        for line in lines:
            events.append(json.loads(line.removeprefix(b"data: ")))
            if len(events) == 20:
                dying.kill()
    unbroken = Listener(proxy, path, **asked)
    unbroken.finish()
    assert "".join(map(text_of, events)) == unbroken.text
    assert told(events) == told(unbroken.events)
    assert sum(line["resumes"] for line in proxy.log_lines()) == 1
