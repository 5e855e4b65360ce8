"""What llama-server makes of an answer with each chat template, and that none of it is lost here.

The template decides what comes first in a stream: some open the thoughts themselves, and that part
of the answer comes with the progress of the prompt. It also decides what a text that goes on looks
like to the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration import chat_templates
from tests.integration.conftest import StartLlamas, StartProxy, StartUpstream
from tests.integration.cutting import Cutter
from tests.integration.listening import CHAT
from tests.integration.processes import PATIENCE_S

ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Count, please."}],
    "max_tokens": 12,
    "stream": True,
    "stream_options": {"include_usage": True},
}
# As the model's own template would have it, and all in the text.
FORMATS: tuple[dict[str, Any], ...] = ({}, {"reasoning_format": "none"})
# One without thoughts, two that open them, and one that lets the model open them.
SAMPLE = (
    "meta-llama-Llama-3.1-8B-Instruct",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "Qwen-Qwen3-0.6B",
    "Qwen3.5-4B",
)

# Holds the longest of the templates' own prompts, of 5,700 tokens.
N_CTX = 8192

# How a stream that is cut in its middle ends, if nothing of it is lost.
RESUMED = "resumed"
# The thoughts are told in a field of their own: it ends with an error event.
THOUGHTS = "thoughts"
# llama-server itself cannot read what the model says, or takes all of it for markup.
UNREADABLE, SILENT = "unreadable", "silent"

Ends = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def ends(
    lasting_llamas: StartLlamas, lasting_proxy: StartProxy, lasting_upstream: StartUpstream
) -> Ends:
    """Return what says how streams with a template end, in each of the formats."""
    cutter = Cutter("")
    # One proxy for all: it starts more slowly than a llama-server with a model that counts.
    # An answer goes on only where there is room for it, as far as the upstreams tell.
    upstreams = [lasting_upstream(cutter, n_ctx=N_CTX) for _ in range(2)]
    proxy = lasting_proxy(*(upstream.url for upstream in upstreams))

    def told(template: Path) -> list[str]:
        flags = f"--jinja --chat-template-file {template}"
        (llama,) = lasting_llamas(1, n_ctx=N_CTX, flags=flags)
        cutter.url = llama.url
        try:
            return [_end(cutter, llama.url, proxy.url, {**ASKED, **asked}) for asked in FORMATS]
        finally:
            llama.kill()

    return told


def _end(cutter: Cutter, direct: str, proxied: str, asked: dict[str, Any]) -> str:
    """Return one of the words above, or what is wrong."""
    own, own_end = _said(direct, asked)
    passed, passed_end = _said(proxied, asked)
    if "error" in own_end:
        return UNREADABLE if "error" in passed_end else f"{passed} instead of an error"
    if (passed, passed_end) != (own, own_end):
        return f"{passed} {passed_end} instead of {own} {own_end}"
    recorded = cutter.recorded
    with_text = [i for i, event in enumerate(recorded) if _adds(event) - {"role"}]
    if not with_text:
        return SILENT
    place = with_text[len(with_text) // 2] + 1
    cutter.cut_after(recorded[:place])
    resumed, resumed_end = _said(proxied, asked)
    if (resumed, resumed_end) == (own, own_end):
        return RESUMED
    adds = set().union(*map(_adds, recorded[:place]))
    if adds - {"role", "content"} and resumed_end.get("error") == "backend_failed":
        return THOUGHTS
    return f"resumed: {resumed} {resumed_end} instead of {own} {own_end}"


def _adds(event: bytes) -> set[str]:
    """Return the fields to which an event of a chat adds something."""
    if not event.startswith(b"data: {"):
        return set()
    choices = json.loads(event.removeprefix(b"data: ")).get("choices") or [{}]
    return {name for name, value in choices[0].get("delta", {}).items() if value}


def _said(url: str, asked: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the fields of the message that a stream makes, and what its end tells."""
    message: dict[str, str] = {}
    end: dict[str, Any] = {}
    with requests.post(url + CHAT, json=asked, stream=True, timeout=PATIENCE_S) as answer:
        if not answer.ok:
            return {}, {"error": answer.status_code}
        for line in answer.iter_lines(chunk_size=None):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line.removeprefix(b"data: "))
            assert "prompt_progress" not in event
            if "error" in event:
                end["error"] = event["error"].get("code")
                continue
            for choice in event["choices"]:
                for name, value in choice["delta"].items():
                    message[name] = message.get(name, "") + str(value or "")
                if choice["finish_reason"] is not None:
                    end["finish_reason"] = choice["finish_reason"]
            if usage := event.get("usage"):
                end |= {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
    return message, end


@pytest.mark.parametrize("name", SAMPLE)
def test_nothing_of_an_answer_is_lost(ends: Ends, name: str) -> None:
    apart, in_the_text = ends(chat_templates.folder() / f"{name}.jinja")
    assert apart in (RESUMED, THOUGHTS)
    assert in_the_text == RESUMED


@pytest.mark.long
def test_nothing_of_an_answer_is_lost_with_any_template(ends: Ends) -> None:
    found = {path.stem: ends(path) for path in chat_templates.folder().glob("*.jinja")}
    assert len(found) > 50
    apart = {name for name, (end, _) in found.items() if end == THOUGHTS}
    untried = {name for name, how in found.items() if {UNREADABLE, SILENT} & {*how}}
    assert apart == named("thoughts in a field of their own")
    assert untried == named("not to be tried with numbers")
    rest = {name: how for name, how in found.items() if name not in apart | untried}
    assert {name: how for name, how in rest.items() if how != [RESUMED, RESUMED]} == {}
    assert {name: how for name, how in found.items() if name in apart and how[1] != RESUMED} == {}


def named(what: str) -> set[str]:
    """Return the templates that the docs name for that."""
    text = Path(__file__).parents[2].joinpath("docs", "llama-server.md").read_text()
    _, _, rest = text.partition(f"<!-- {what} -->")
    return set(re.findall(r"`([^`]+)`", rest.partition("<!-- end -->")[0]))
