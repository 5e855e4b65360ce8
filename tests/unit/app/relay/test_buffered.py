from __future__ import annotations

import json
from typing import Any

from heartcode.fields import Fields
from heartcode.relay import buffered
from heartcode.relay.continuation import CHAT, COMPLETIONS

FINAL = (
    b'data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"created":5,"id":"i",'
    b'"model":"m","system_fingerprint":"b","object":"chat.completion.chunk"}\n\n'
)
USAGE = (
    b'data: {"choices":[],"created":5,"id":"i","model":"m","system_fingerprint":"b",'
    b'"object":"chat.completion.chunk","usage":{"total_tokens":3},"timings":{"prompt_n":1}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def test_a_chat_answer_has_the_fields_in_llama_servers_order() -> None:
    assert (
        buffered.answer(" é\n", b": ping\n\n" + FINAL + USAGE + DONE)
        == (
            '{"choices":[{"finish_reason":"stop","index":0,'
            '"message":{"role":"assistant","content":" é\\n"}}],"created":5,"model":"m",'
            '"system_fingerprint":"b","object":"chat.completion","usage":{"total_tokens":3},'
            '"id":"i","timings":{"prompt_n":1}}'
        ).encode()
    )


def test_without_its_end_there_is_no_answer() -> None:
    assert buffered.answer("x", FINAL + DONE) is None
    assert buffered.answer("x", USAGE + DONE) is None
    assert buffered.answer("x", b"") is None


def as_stream(path: str, fields: dict[str, Any]) -> bytes:
    return buffered.as_stream(path, Fields.of(json.dumps(fields).encode()))


def test_the_stream_asks_for_the_same() -> None:
    asked = json.loads(as_stream(COMPLETIONS, {"stream": False, "prompt": "é", "odd": [None]}))
    assert asked.pop("stream") is True
    assert asked.pop("stream_options") == {"include_usage": True}
    assert asked.pop("return_progress") is True
    assert asked == {"prompt": "é", "odd": [None]}


def test_the_client_s_own_beginning_is_asked_for_as_well() -> None:
    own = {"messages": [{"role": "assistant", "content": "It"}]}
    asked = json.loads(as_stream(CHAT, own))
    assert asked["echo"] is True
    others = {"messages": [{"role": "user", "content": "It"}]}
    assert "echo" not in json.loads(as_stream(CHAT, others))


def test_what_a_completion_does_not_read_decides_nothing() -> None:
    for messages in ("Hi", [None], [{"role": "assistant", "content": "It"}], {"role": "user"}, 5):
        fields = {"prompt": "1", "messages": messages}
        assert "echo" not in json.loads(as_stream(COMPLETIONS, fields))
