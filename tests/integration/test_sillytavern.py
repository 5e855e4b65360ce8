"""What SillyTavern's server asks, and what SillyTavern reads from the answers.

The requests were recorded between SillyTavern 1.19.0 (npm: sillytavern) and the proxy, while its
own API was driven as its web page does it; fields that say nothing here are left out. Each test
names the file there whose code sends the request or reads the answer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from tests.integration.conftest import StartLlamas, StartProxy, StartUpstream
from tests.integration.misbehaving import Connection, Request
from tests.integration.processes import Proxy, counted_to

MODEL = "counting"
NODE_FETCH = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, br",
    "user-agent": "node-fetch",
    "Connection": "close",
}
KEYLESS = {"authorization": "Bearer "}  # the custom source sends it without a key, too

# public/scripts/textgen-settings.js, createTextGenGenerationData(): its defaults for llama.cpp.
TEXT: dict[str, Any] = {
    "prompt": "User: Count, please.\nCount:",
    "max_new_tokens": 12,
    "max_tokens": 12,
    "n_predict": 12,
    "num_predict": 12,
    "temperature": 0.7,
    "top_p": 0.5,
    "typical_p": 1,
    "typical": 1,
    "min_p": 0,
    "repetition_penalty": 1.2,
    "repeat_penalty": 1.2,
    "repeat_last_n": 0,
    "top_k": 40,
    "min_tokens": 0,
    "add_bos_token": True,
    "smoothing_factor": 0,
    "dry_multiplier": 0,
    "dry_base": 1.75,
    "dry_sequence_breakers": ["\n", ":", '"', "*"],
    "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc"],
    "stopping_strings": ["\nUser:", "\nCount:"],
    "stop": ["\nUser:", "\nCount:"],
    "truncation_length": 4096,
    "num_ctx": 4096,
    "ban_eos_token": False,
    "ignore_eos": False,
    "tfs": 1,
    "mirostat_mode": 0,
    "mirostat": 0,
    "custom_token_bans": "",
    "banned_strings": [],
    "api_type": "llamacpp",
    "api_server": "http://rig:8080",
    "xtc_threshold": 0.1,
    "xtc_probability": 0,
    "nsigma": 0,
    "adaptive_target": -0.01,
    "guidance_scale": 1,
    "negative_prompt": "",
    "n": 1,
    "logit_bias": [],
    "grammar": "",
    "cache_prompt": True,
}
# src/endpoints/backends/chat-completions.js, /generate with the source `custom`.
CHAT: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Write Count's next reply."},
        {"role": "user", "content": "Count, please."},
    ],
    "model": MODEL,
    "temperature": 1,
    "max_tokens": 12,
    "stream": False,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "top_p": 1,
    "stop": ["\nUser:"],
}


@pytest.fixture(scope="module")
def proxy(lasting_llamas: StartLlamas, lasting_proxy: StartProxy) -> Proxy:
    backends = [llama.url for llama in lasting_llamas(2, name=MODEL)]
    return lasting_proxy(*backends, HEARTCODE_MODEL=MODEL, HEARTCODE_SLOTS="2")


def get(proxy: Proxy, path: str, headers: dict[str, str] | None = None) -> Any:
    answer = requests.get(proxy.url + path, headers={**NODE_FETCH, **(headers or {})}, timeout=30)
    assert answer.ok
    return answer.json()


def post(proxy: Proxy, path: str, body: dict[str, Any]) -> requests.Response:
    headers = {**NODE_FETCH, "content-type": "application/json"}
    if "chat" in path:
        headers |= KEYLESS
    return requests.post(
        proxy.url + path,
        # As JSON.stringify writes it.
        data=json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
        headers=headers,
        timeout=30,
    )


def events(answer: requests.Response) -> list[dict[str, Any]]:
    """Return the events as public/scripts/sse-stream.js finds them, up to [DONE]."""
    assert answer.ok
    assert answer.headers["Content-Type"] == "text/event-stream"
    data = [
        line.removeprefix("data: ")
        for event in answer.text.split("\n\n")
        for line in event.split("\n")
        if line.startswith("data: ")
    ]
    return [json.loads(each) for each in data if each != "[DONE]"]


def test_connecting(proxy: Proxy) -> None:
    # src/endpoints/backends/text-completions.js, /status and /props.
    assert [model["id"] for model in get(proxy, "/v1/models")["data"]] == [MODEL]
    own = requests.get(proxy.env["HEARTCODE_BACKENDS"].split(",")[0] + "/props", timeout=30)
    for path in ("/props", f"/props?model={MODEL}"):
        props = get(proxy, path)
        # public/scripts/textgen-settings.js, getStatusTextgen(): the template's hash chooses the
        # instruct template, `n_ctx` becomes the size of the context.
        assert props["chat_template"] == own.json()["chat_template"]
        assert props["default_generation_settings"]["n_ctx"] == 32768
    assert len(get(proxy, "/slots")) == 4
    # src/endpoints/backends/chat-completions.js, /status: for an address with and without /v1.
    for path in ("/v1/models", "/models"):
        assert [model["id"] for model in get(proxy, path, KEYLESS)["data"]] == [MODEL]


def test_what_one_user_could_do_to_all_is_refused(proxy: Proxy) -> None:
    # src/endpoints/backends/text-completions.js, /llamacpp/slots: it looks at the status alone.
    for action in ("erase", "save", "restore"):
        assert not post(proxy, f"/slots/0?action={action}", {"filename": "x.bin"}).ok


def test_counting_tokens(proxy: Proxy) -> None:
    # src/endpoints/tokenizers.js, /remote/textgenerationwebui/encode: `data.tokens` are counted.
    # "undefined" is what it asks for as long as no model has been chosen on the page.
    for model in (MODEL, "undefined"):
        answer = post(proxy, "/tokenize", {"model": model, "content": " 1 2 3 😀"})
        assert answer.ok
        assert len(answer.json()["tokens"]) == 8


def test_text(proxy: Proxy) -> None:
    # public/script.js, extractMessageFromData().
    assert post(proxy, "/completion", {**TEXT, "stream": False}).json()["content"] == counted_to(12)
    # public/scripts/textgen-settings.js, generateTextGenWithStreaming().
    streamed = events(post(proxy, "/completion", {**TEXT, "model": MODEL, "stream": True}))
    assert "".join(event["content"] for event in streamed) == counted_to(12)
    # src/endpoints/backends/text-completions.js, /generate for the type `generic`.
    generic = {name: TEXT[name] for name in ("prompt", "temperature", "stop", "max_tokens")}
    answer = post(proxy, "/v1/completions", {**generic, "model": MODEL})
    assert answer.json()["choices"][0]["text"] == counted_to(12)


def test_several_texts_to_choose_from(proxy: Proxy) -> None:
    # public/script.js, extractMultiSwipes(): a list, of which all but the first are swipes.
    answer = post(proxy, "/completion", {**TEXT, "n": 2, "stream": False})
    assert [each["content"] for each in answer.json()] == [counted_to(12)] * 2
    # public/scripts/textgen-settings.js: `index` says which swipe an event belongs to.
    texts = ["", ""]
    for event in events(post(proxy, "/completion", {**TEXT, "n": 2, "stream": True})):
        texts[event["index"]] += event["content"]
    assert texts == [counted_to(12)] * 2


def test_probabilities(proxy: Proxy) -> None:
    # public/scripts/textgen-settings.js, parseTextgenLogprobs().
    body = {**TEXT, "n_probs": 10, "n_predict": 2}
    whole = post(proxy, "/completion", {**body, "stream": False}).json()
    streamed = events(post(proxy, "/completion", {**body, "stream": True}))
    for first in (whole, streamed[0]):
        best = first["completion_probabilities"][0]["top_logprobs"][0]
        assert (best["token"], best["logprob"]) == (" 1", 0.0)


def test_a_refusal_is_shown(proxy: Proxy) -> None:
    # public/scripts/textgen-settings.js, tryParseStreamingError(): `error.message` is shown.
    for wrong, status in (({"grammar": "root ::= ("}, 400), ({"model": "gone"}, 404)):
        for stream in (False, True):
            answer = post(proxy, "/completion", {**TEXT, **wrong, "stream": stream})
            assert answer.status_code == status
            assert answer.json()["error"]["message"]


def test_an_answer_that_breaks_off_is_shown(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    def break_off(connection: Connection, _: Request) -> None:
        connection.start_stream()
        connection.chunk(b'data: {"index":0,"content":" 1","stop":false}\n\n')
        connection.reset()

    proxy = start_proxy(start_upstream(break_off).url)
    # public/scripts/textgen-settings.js looks for `error.message` in each event.
    *_, last = events(post(proxy, "/completion", {**TEXT, "stream": True}))
    assert last["error"]["message"]


def test_chat(proxy: Proxy) -> None:
    # public/script.js, extractMessageFromData(); public/scripts/openai.js, getStreamingReply().
    # The page's address for the API with /v1, without it, and with /v1/.
    for path in ("/v1/chat/completions", "/chat/completions", "/v1//chat/completions"):
        answer = post(proxy, path, CHAT)
        assert answer.history == []  # no redirect
        assert answer.json()["choices"][0]["message"]["content"] == counted_to(12)
        streamed = events(post(proxy, path, {**CHAT, "stream": True}))
        texts = [choice["delta"].get("content") or "" for e in streamed for choice in e["choices"]]
        assert "".join(texts) == counted_to(12)


def test_continuing_a_reply(proxy: Proxy) -> None:
    begun = [*CHAT["messages"], {"role": "assistant", "content": " 1 2 3"}]
    answer = post(proxy, "/v1/chat/completions", {**CHAT, "messages": begun, "max_tokens": 2})
    assert answer.json()["choices"][0]["message"]["content"] == counted_to(5)


def test_several_replies_to_choose_from(proxy: Proxy) -> None:
    # public/script.js, extractMultiSwipes().
    answer = post(proxy, "/v1/chat/completions", {**CHAT, "n": 2})
    assert [c["message"]["content"] for c in answer.json()["choices"]] == [counted_to(12)] * 2


def test_vectors(llama_servers: StartLlamas, start_proxy: StartProxy) -> None:
    # src/vectors/llamacpp-vectors.js: no model, and `data` sorted by `index`.
    (llama,) = llama_servers(1, name=MODEL, flags="--embeddings --pooling mean")
    proxy = start_proxy(llama.url, HEARTCODE_MODEL=MODEL)
    answer = post(proxy, "/v1/embeddings", {"input": [" 1", " 2"]}).json()
    assert sorted(each["index"] for each in answer["data"]) == [0, 1]
    assert all(len(each["embedding"]) == 256 for each in answer["data"])
