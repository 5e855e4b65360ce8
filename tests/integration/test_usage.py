"""What a real llama-server tells at the end of an answer, whatever the endpoint."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from heartcode.upstream.usage import Usage

from tests.integration.conftest import StartLlamas

MESSAGES = [{"role": "user", "content": "Count, please."}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 5},
    "/v1/completions": {"prompt": "Count, please.", "max_tokens": 5},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 5},
    "/v1/responses": {"input": "Count, please.", "max_output_tokens": 5},
    "/completion": {"prompt": "Count, please.", "n_predict": 5},
}


TELL_NO_TIMES = ("/v1/messages", "/v1/responses")


@pytest.fixture
def url(llama_servers: StartLlamas) -> str:
    (llama,) = llama_servers(1)
    return llama.url


def test_whole_answers(url: str) -> None:
    for path, fields in REQUESTS.items():
        body = requests.post(url + path, json=fields, timeout=60).content
        check(path, Usage.in_body(body), times=path not in TELL_NO_TIMES)


def test_the_last_two_events_of_streams(url: str) -> None:
    for path, fields in REQUESTS.items():
        if path == "/v1/messages":  # it repeats only the length of the answer
            continue
        for more in ({}, {"stream_options": {"include_usage": True}}, {"timings_per_token": True}):
            asked = {**fields, **more, "stream": True}
            stream = requests.post(url + path, json=asked, timeout=60).content
            events = [event + b"\n\n" for event in stream.split(b"\n\n") if event]
            usage = Usage.in_stream(events[-2] + events[-1])
            check(f"{path} {more}", usage, times=True)


def check(what: str, usage: Usage | None, *, times: bool) -> None:
    if usage is None:
        pytest.fail(f"{what} tells nothing")
    assert usage.generated == 5, what
    assert usage.evaluated + usage.cached > 3, what
    assert (usage.prompt_s > 0) == (usage.decode_s > 0) == times, what
