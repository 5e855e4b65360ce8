"""The proxy under gunicorn, before upstreams that misbehave."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest
import requests

from tests.integration import misbehaving
from tests.integration.conftest import StartProxy, StartUpstream
from tests.integration.misbehaving import (
    Behaviour,
    Connection,
    Request,
    Upstream,
    serve_two_tokens,
)
from tests.integration.processes import Proxy, connect_and_send, events, free_port, wait_until

EARLY_FAILURES = [
    misbehaving.be_loading,
    misbehaving.reset_at_once,
    misbehaving.talk_nonsense,
    misbehaving.die_after_the_head,
    misbehaving.die_in_the_answer,
    misbehaving.answer_500_with_html,
    misbehaving.never_end_the_headers,
    misbehaving.send_half_a_chunk,
    misbehaving.send_half_an_event,
]


class Model:
    """A model with backends of its own behind a proxy that serves others as well."""

    def __init__(self, proxy: Proxy, name: str, upstreams: list[Upstream]) -> None:
        self.proxy = proxy
        self.name = name
        self.upstreams = upstreams

    def post(self, path: str = "", **fields: Any) -> requests.Response:
        return self.proxy.post(path, model=self.name, **fields)

    def stream(self, **fields: Any) -> requests.Response:
        return self.proxy.stream(model=self.name, **fields)


class Models:
    """One proxy for tests that differ in what its upstreams do: each takes a model of its own.

    `numbers` says how many models there are with so many backends.
    """

    def __init__(
        self,
        start_proxy: StartProxy,
        start_upstream: StartUpstream,
        numbers: Mapping[int, int],
        **variables: str,
    ) -> None:
        self._free = {
            f"{backends}-{number}": [
                start_upstream(serve_two_tokens, model=f"{backends}-{number}")
                for _ in range(backends)
            ]
            for backends, models in numbers.items()
            for number in range(models)
        }
        self._proxy = start_proxy(
            *(upstream.url for all_of_one in self._free.values() for upstream in all_of_one),
            HEARTCODE_MODEL=",".join(name for name, them in self._free.items() for _ in them),
            **variables,
        )

    def take(self, *behaviours: Behaviour) -> Model:
        """Return a model that nobody has asked yet; its upstreams behave like this.

        To requests alone: a monitor that looks just then would hear of it before the request does.
        """
        name = next(name for name in self._free if name.startswith(f"{len(behaviours)}-"))
        upstreams = self._free.pop(name)
        for upstream, behave in zip(upstreams, behaviours, strict=True):
            upstream.introduce = upstream.introduce_itself
            upstream.behave = behave
        return Model(self._proxy, name, upstreams)


@pytest.fixture(scope="module")
def models(lasting_proxy: StartProxy, lasting_upstream: StartUpstream) -> Models:
    # Of two backends the first is first in turn, and not probed a second time.
    patient = {"HEARTCODE_PROBE_PAUSE_S": "60", "HEARTCODE_PROBE_PAUSE_MAX_S": "60"}
    return Models(lasting_proxy, lasting_upstream, {1: 15, 2: 22, 3: 2}, **patient)


@pytest.fixture(scope="module")
def pinging(lasting_proxy: StartProxy, lasting_upstream: StartUpstream) -> Models:
    quick = {"HEARTCODE_PING_INTERVAL_S": "0.1"}
    return Models(lasting_proxy, lasting_upstream, {1: 4, 2: 1}, **quick)


def disconnected(proxy: Proxy) -> int:
    return sum(line["outcome"] == "disconnected" for line in proxy.log_lines())


def test_request_and_answer_pass_byte_for_byte(models: Models) -> None:
    model = models.take(lambda c, _: c.answer("200 OK", b'{"odd" :  [1,2 ] }'))
    body = (
        b' {"stream": true, "min_p" : 0.050, "dry_multiplier":8e-1, "prompt": "\\u00e9\xc3\xa9",'
        b' "model": "%s"}\n' % model.name.encode()
    )
    headers = {
        "X-Request-Id": "from-the-client",
        "X-Conversation-Id": "keeps a stream alive",
        "Authorization": "Bearer secret",
        "Content-Type": "application/json",
    }
    answer = requests.post(
        f"{model.proxy.url}/v1/completions", data=body, headers=headers, timeout=30
    )

    assert answer.content == b'{"odd" :  [1,2 ] }'
    assert answer.headers["X-Request-Id"] == "from-the-client"
    (seen,) = model.upstreams[0].requests
    assert seen.body == body.replace(b"{", b'{"return_progress":true,', 1)
    assert seen.path == "/v1/completions"
    assert seen.headers["x-request-id"] == "from-the-client"
    assert seen.headers["content-type"] == "application/json"
    assert "x-conversation-id" not in seen.headers
    assert "authorization" not in seen.headers


def test_a_whole_answer_is_asked_for_as_a_stream_with_all_fields(models: Models) -> None:
    model = models.take(lambda c, _: c.answer("200 OK", b'{"odd" :  [1,2 ] }'))
    asked = {"prompt": "é", "min_p": 0.05, "nested": {"unknown": [None, 1e-5]}}
    answer = model.post("/v1/completions", **asked)
    assert answer.content == b'{"odd" :  [1,2 ] }'
    (seen,) = model.upstreams[0].requests
    as_stream = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_progress": True,
    }
    assert json.loads(seen.body) == {**asked, "model": model.name, **as_stream}


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_the_slot_is_not_the_client_s_to_choose(models: Models, *, stream: bool) -> None:
    model = models.take(serve_two_tokens)
    assert model.post(prompt="é", stream=stream, id_slot=7).ok
    (seen,) = model.upstreams[0].requests
    asked = json.loads(seen.body)
    assert (asked["prompt"], "id_slot" in asked) == ("é", False)


def test_a_stream_that_cannot_become_a_whole_answer_is_asked_for_again(models: Models) -> None:
    """Thoughts, say: nobody has seen anything yet, so the plain request gets the right answer."""

    def think(connection: Connection, request: Request) -> None:
        if b"stream" not in request.body:
            connection.answer("200 OK", b'{"thoughts": 1}')
            return
        connection.start_stream()
        delta = {"reasoning_content": "hm"}
        choice = {"finish_reason": None, "index": 0, "delta": delta}
        connection.chunk(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        connection.wait_until_hung_up()

    model = models.take(think)
    answer = model.post(messages=[{"role": "user", "content": "x"}])
    assert answer.json() == {"thoughts": 1}
    assert len(model.upstreams[0].requests) == 2


def test_a_backends_own_refusal_passes_through(models: Models) -> None:
    model = models.take(lambda c, _: c.answer("400 Bad Request", b'{"error": "context"}'))
    answer = model.post(prompt="x", stream=True)
    assert answer.status_code == 400
    assert answer.json() == {"error": "context"}


def test_each_event_is_passed_on_before_the_next_is_made(models: Models) -> None:
    client_has_read = threading.Semaphore(0)

    def wait_for_the_client(connection: Connection, _: Request) -> None:
        connection.start_stream()
        for number in range(5):
            connection.chunk(f'data: {{"n":{number}}}\n\n'.encode())
            assert client_has_read.acquire(timeout=30)
        connection.end_stream()

    with models.take(wait_for_the_client).stream(prompt="x") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        numbers = []
        for event in events(answer):
            numbers.append(event["n"])
            client_has_read.release()
    assert numbers == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("failure", EARLY_FAILURES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_before_the_first_byte_a_request_moves_on(
    models: Models, failure: Behaviour, *, stream: bool
) -> None:
    model = models.take(failure, serve_two_tokens)
    bad, good = model.upstreams
    answer = model.post(prompt="x", stream=stream)
    assert answer.status_code == 200
    assert '"n":2' in answer.text.replace(" ", "")
    assert "error" not in answer.text
    assert len(bad.requests) == len(good.requests) == 1
    if failure is misbehaving.answer_500_with_html:
        return  # the request may be why
    # It is avoided from now on.
    assert model.post(prompt="x", stream=stream).status_code == 200
    assert (len(bad.requests), len(good.requests)) == (1, 2)


def test_a_refused_connection_moves_on(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    good = start_upstream(serve_two_tokens)
    proxy = start_proxy(f"http://127.0.0.1:{free_port()}", good.url)
    assert proxy.post(prompt="x").json() == {"n": 2}


def test_a_silent_backend_is_left(start_proxy: StartProxy, start_upstream: StartUpstream) -> None:
    silent, good = start_upstream(misbehaving.be_silent), start_upstream(serve_two_tokens)
    proxy = start_proxy(silent.url, good.url, HEARTCODE_SILENCE_TIMEOUT_S="0.2")
    assert proxy.post(prompt="x").json() == {"n": 2}


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (misbehaving.be_loading, 503, "backend_unavailable"),
        (misbehaving.reset_at_once, 500, "request_kills_backends"),
    ],
)
def test_each_backend_is_tried_once(
    models: Models,
    failure: Behaviour,
    status: int,
    code: str,
) -> None:
    model = models.take(failure, failure)
    answer = model.post(prompt="x")
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert [len(upstream.requests) for upstream in model.upstreams] == [1, 1]


def test_an_error_that_two_backends_agree_on_is_the_answer(models: Models) -> None:
    refusal = b'{"error": {"message": "bad template"}}'
    model = models.take(*[lambda c, _: c.answer("500 Error", refusal)] * 3)
    for stream in (True, False):
        answer = model.post(prompt="x", stream=stream)
        assert (answer.status_code, answer.content) == (500, refusal)
        assert answer.headers["X-Should-Retry"] == "false"
    assert sum(len(upstream.requests) for upstream in model.upstreams) == 4


def test_who_was_refused_in_two_ways_may_ask_again(models: Models) -> None:
    one, other = b'{"error": {"message": "Compute error."}}', b'{"error": {"message": "no"}}'
    model = models.take(
        lambda c, _: c.answer("500 Error", one), lambda c, _: c.answer("500 Error", other)
    )
    answer = model.post(prompt="x")
    assert (answer.status_code, answer.content) == (500, other)
    assert "X-Should-Retry" not in answer.headers


def test_nobody_asks_again_for_what_two_backends_died_of(models: Models) -> None:
    model = models.take(*[misbehaving.reset_at_once] * 3)
    answer = model.post(prompt="x")
    assert answer.json()["error"]["code"] == "request_kills_backends"
    assert answer.headers["X-Should-Retry"] == "false"


def test_a_request_moves_a_set_number_of_times(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    backends = [start_upstream(misbehaving.be_silent) for _ in range(4)]
    proxy = start_proxy(
        *(upstream.url for upstream in backends),
        HEARTCODE_MAX_MOVES="2",
        HEARTCODE_SILENCE_TIMEOUT_S="0.2",
    )
    assert proxy.post(prompt="x").status_code == 502
    assert sum(len(upstream.requests) for upstream in backends) == 3


def after(seconds: float, behave: Behaviour) -> Behaviour:
    def wait(connection: Connection, request: Request) -> None:
        time.sleep(seconds)
        behave(connection, request)

    return wait


def test_signs_of_life_while_a_prompt_is_evaluated(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    slow = start_upstream(after(0.5, serve_two_tokens))
    # The limit between tokens does not hold for the first of them.
    quick = {"HEARTCODE_PING_INTERVAL_S": "0.1", "HEARTCODE_TOKEN_SILENCE_TIMEOUT_S": "0.2"}
    answer = start_proxy(slow.url, **quick).post(prompt="x", stream=True)
    pings, tokens = answer.content.count(b": ping\n\n"), answer.content.replace(b": ping\n\n", b"")
    assert 2 <= pings <= 5
    assert tokens == b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'
    assert len(slow.requests) == 1


def test_a_prompt_may_stand_still_between_two_signs_of_progress(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    def read_slowly(connection: Connection, _: Request) -> None:
        connection.start_stream()
        for processed in (512, 1024):
            progress = b'data: {"prompt_progress":{"processed":%d}}\n\n' % processed
            connection.chunk(progress)
            time.sleep(0.5)
        connection.chunk(b'data: {"n":1}\n\n')
        connection.wait_until_hung_up()

    slow = start_upstream(read_slowly)
    variables = {"HEARTCODE_TOKEN_SILENCE_TIMEOUT_S": "0.2"}
    proxy = start_proxy(slow.url, **variables)
    *told, last, _ = proxy.post(prompt="x", stream=True).content.split(b"\n\n")
    assert told[-1] == b'data: {"n":1}'
    assert b"backend failed (silent)" in last


def test_a_request_moves_also_after_a_sign_of_life(pinging: Models) -> None:
    model = pinging.take(after(0.3, misbehaving.reset_at_once), serve_two_tokens)
    with model.stream(prompt="x") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        lines = [line for line in answer.iter_lines() if line]
    assert lines[0] == b": ping"
    assert lines[-3:] == [b'data: {"n":1}', b'data: {"n":2}', b"data: [DONE]"]
    assert model.proxy.log_line(answer.headers["X-Request-Id"])["outcome"] == "completed"


@pytest.mark.parametrize(
    ("behave", "error"),
    [
        (misbehaving.be_loading, {"code": "backend_unavailable", "type": "server_error"}),
        (
            lambda c, _: c.answer("400 Bad", b'{"error":{"message":"too long","type":"t"}}'),
            {"code": "t", "message": "too long", "type": "invalid_request_error"},
        ),
        (lambda c, _: c.answer("404 No", b"[]"), {"code": "backend_failed"}),
    ],
    ids=["loading", "refusal", "nonsense"],
)
def test_an_error_after_a_sign_of_life_is_an_event(
    pinging: Models, behave: Behaviour, error: dict[str, str]
) -> None:
    model = pinging.take(after(0.3, behave))
    answer = model.post(prompt="x", stream=True)
    assert answer.status_code == 200
    last = answer.content.split(b"\n\n")[-2]
    assert error.items() <= json.loads(last.removeprefix(b"data: "))["error"].items()
    assert model.proxy.log_line(answer.headers["X-Request-Id"])["outcome"] == "failed"


def test_a_client_that_leaves_after_a_sign_of_life_hangs_up(pinging: Models) -> None:
    hung_up = threading.Event()

    def be_silent(connection: Connection, _: Request) -> None:
        connection.wait_until_hung_up()
        hung_up.set()

    model = pinging.take(be_silent)
    before = disconnected(model.proxy)
    asked = {"model": model.name, "prompt": "x", "stream": True}
    with connect_and_send(model.proxy, "/v1/completions", asked) as client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.readline() == b": ping\n"
        answer.close()
    assert hung_up.wait(30)
    wait_until(lambda: disconnected(model.proxy) == before + 1, "it is told")


@pytest.mark.parametrize("torn", [b"", b'data: {"n":', b'data: {"n":2}\n'])
def test_a_stream_that_breaks_ends_with_an_error_event(models: Models, torn: bytes) -> None:
    def die(connection: Connection, _: Request) -> None:
        connection.start_stream()
        connection.chunk(b'data: {"n":1}\n\n' + torn)

    model = models.take(die)
    answer = model.post(prompt="x", stream=True)  # a bare cut would raise here
    first, last, rest = answer.content.split(b"\n\n")
    assert first == b'data: {"n":1}'
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "backend_failed"
    assert rest == b""
    assert model.proxy.log_line(answer.headers["X-Request-Id"])["outcome"] == "failed"


def test_an_error_that_a_backend_tells_amid_a_stream_is_a_failure(models: Models) -> None:
    def fail(connection: Connection, _: Request) -> None:
        connection.start_stream()
        connection.chunk(b'data: {"n":1}\n\n')
        connection.chunk(b'data: {"error":{"code":500,"message":"Compute error."}}\n\n')
        connection.send(b"0\r\n\r\n")

    model = models.take(fail, serve_two_tokens)
    answer = model.post(prompt="x", stream=True)
    first, last, rest = answer.content.split(b"\n\n")
    assert (first, rest) == (b'data: {"n":1}', b"")
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "backend_failed"
    assert model.proxy.log_line(answer.headers["X-Request-Id"])["outcome"] == "failed"
    # It is avoided from now on.
    assert model.post(prompt="x", stream=True).content.count(b'"n"') == 2
    assert [len(upstream.requests) for upstream in model.upstreams] == [1, 1]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_leaves_hangs_up_on_a_silent_backend(models: Models, *, stream: bool) -> None:
    """As while a long prompt is evaluated: nothing is written that could fail."""
    asked, hung_up = threading.Event(), threading.Event()

    def be_silent(connection: Connection, _: Request) -> None:
        asked.set()
        connection.wait_until_hung_up()
        hung_up.set()

    model = models.take(be_silent)
    before = disconnected(model.proxy)
    body = {"model": model.name, "prompt": "x", "stream": stream}
    with connect_and_send(model.proxy, "/v1/completions", body):
        assert asked.wait(30)
    assert hung_up.wait(30)
    wait_until(lambda: disconnected(model.proxy) == before + 1, "it is told")


def leave_after(model: Model, *lines: bytes) -> str:
    """Read a stream up to the last of these lines and hang up; return the request's id."""
    asked = {"model": model.name, "prompt": "x", "stream": True}
    with connect_and_send(model.proxy, "/v1/completions", asked) as client:
        answer = http.client.HTTPResponse(client)
        answer.begin()
        told = filter(bytes.strip, iter(answer.readline, b""))
        assert [next(told) for _ in lines] == list(lines)
        answer.close()
    return str(answer.headers["X-Request-Id"])


def test_a_client_that_leaves_hangs_up_between_events(models: Models) -> None:
    hung_up = threading.Event()

    def one_event(connection: Connection, _: Request) -> None:
        connection.start_stream()
        connection.chunk(b'data: {"n":1}\n\n')
        connection.wait_until_hung_up()
        hung_up.set()

    leave_after(models.take(one_event), b'data: {"n":1}\n')
    assert hung_up.wait(30)


TOKEN = (
    b'data: {"choices":[{"text":" 1","index":0,"logprobs":null,"finish_reason":null}],'
    b'"created":1,"model":"m","object":"text_completion","id":"x"}\n\n'
)
LAST = (
    b'data: {"choices":[{"text":"","index":0,"logprobs":null,"finish_reason":"length"}],'
    b'"timings":{"cache_n":4,"prompt_n":3,"prompt_ms":9,"predicted_n":2,"predicted_ms":8}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def test_a_client_that_leaves_at_the_last_event_has_got_all_of_it(models: Models) -> None:
    """Most do, and under load the end of llama-server's HTTP answer is not there yet."""
    hung_up = threading.Event()

    def keep_the_end(connection: Connection, _: Request) -> None:
        connection.start_stream()
        for event in (TOKEN, LAST, DONE):
            connection.chunk(event)
        connection.wait_until_hung_up()
        hung_up.set()

    model = models.take(keep_the_end)
    identity = leave_after(model, TOKEN[:-1], LAST[:-1], DONE[:-1])
    assert hung_up.wait(30)
    line = model.proxy.log_line(identity)
    assert (line["outcome"], line["status"]) == ("completed", 200)
    assert (line["prompt_tokens"], line["cached_tokens"], line["tokens"]) == (7, 4, 2)


def test_a_backend_that_dies_behind_the_last_event_has_answered(models: Models) -> None:
    def die(connection: Connection, _: Request) -> None:
        connection.start_stream()
        for event in (TOKEN, LAST, DONE):
            connection.chunk(event)

    model = models.take(die)
    answer = model.post("/v1/completions", prompt="x", stream=True)
    assert answer.content == TOKEN + LAST + DONE
    line = model.proxy.log_line(answer.headers["X-Request-Id"])
    assert (line["outcome"], line["resumes"], line["tokens"]) == ("completed", 0, 2)


def test_running_streams_outlive_a_stop(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    go_on = threading.Event()

    def wait(connection: Connection, _: Request) -> None:
        connection.start_stream()
        connection.chunk(b'data: {"n":1}\n\n')
        assert go_on.wait(30)
        connection.chunk(b'data: {"n":2}\n\n')
        connection.end_stream()

    proxy = start_proxy(start_upstream(wait).url, HEARTCODE_GRACEFUL_TIMEOUT_S="30")
    with proxy.stream(prompt="x") as answer:
        stream = events(answer)
        assert next(stream) == {"n": 1}
        proxy.process.terminate()
        wait_until(lambda: "Handling signal: term" in proxy.stderr.read_text(), "it stops")
        go_on.set()
        assert next(stream) == {"n": 2}
        assert list(stream) == []
    assert proxy.process.wait(30) == 0


def test_draining_refuses_and_comes_back(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    proxy = start_proxy(start_upstream(serve_two_tokens).url)
    for path in ("/health", "/v1/health"):
        assert requests.get(f"{proxy.url}{path}", timeout=30).json() == {
            "status": "ok",
            "backends_up": 1,
            "backends": 1,
        }
    sign = proxy.run_dir / "draining"
    sign.touch()
    assert requests.get(f"{proxy.url}/health", timeout=30).status_code == 503
    assert requests.get(f"{proxy.url}/livez", timeout=30).status_code == 200
    refused = proxy.post(prompt="x")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    sign.unlink()
    assert requests.get(f"{proxy.url}/health", timeout=30).status_code == 200
    assert proxy.post(prompt="x").status_code == 200


def test_health_fails_without_a_backend(start_proxy: StartProxy) -> None:
    proxy = start_proxy(f"http://127.0.0.1:{free_port()}")
    answer = requests.get(f"{proxy.url}/health", timeout=30)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "backend_unavailable"


def test_too_large_a_body_is_refused_however_it_is_sent(
    start_proxy: StartProxy, start_upstream: StartUpstream
) -> None:
    proxy = start_proxy(start_upstream(serve_two_tokens).url, HEARTCODE_MAX_BODY_BYTES="1024")
    url = f"{proxy.url}/v1/completions"
    for data in (b"x" * 1025, iter([b"x" * 1000, b"x" * 1000])):
        answer = requests.post(url, data=data, timeout=30)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"
