"""scripts/health_check.sh against a real HTTP server that misbehaves on request."""

from __future__ import annotations

import copy
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "health_check.sh"
JSON = "application/json"
SSE = "text/event-stream"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server says before it closes the connection."""

    status: int = 200
    content_type: str = JSON
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    promised_length: int | None = None
    delay: float = 0


def event(text: str) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


def error(message: str, status: int) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "e", "param": None, "code": status}})
    return Answer(status=status, body=body)


COUNTED = [event(f" {number}") for number in range(1, 17)]
GOOD = {
    "/health": Answer(body='{"status":"ok"}'),
    "/v1/models": Answer(body='{"object":"list","data":[{"id":"a\\"b/count","object":"model"}]}'),
    "completion": Answer(
        body='{"choices": [{"message": {"role": "assistant", "content": " 1 2 3"}}]}'
    ),
    "stream": Answer(content_type=SSE, body="".join(COUNTED) + "data: [DONE]\n\n"),
}


class Server(ThreadingHTTPServer):
    """Serves `answers`, all good at first, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = dict(GOOD)
        self.requests: list[str] = []
        self.keys: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.answer(self.path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(body.decode())
        assert self.path == "/v1/chat/completions"
        self.answer("stream" if json.loads(body)["stream"] else "completion")

    def answer(self, name: str) -> None:
        self.server.keys.add(self.headers["Authorization"])
        answer = self.server.answers.get(name, error("no such path", 404))
        time.sleep(answer.delay)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        for header, value in answer.headers.items():
            self.send_header(header, value)
        if answer.promised_length is not None:
            self.send_header("Content-Length", str(answer.promised_length))
        self.end_headers()
        self.wfile.write(answer.body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def check(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEARTCODE_") and "proxy" not in name.lower()
    }
    return subprocess.run(
        [SCRIPT, *arguments],
        env={**clean, "HEARTCODE_HEALTH_TIMEOUT": "5", **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def line(done: subprocess.CompletedProcess[str], name: str) -> str:
    """The line about one check and the advice below it."""
    lines = done.stdout.splitlines()
    (start,) = [number for number, text in enumerate(lines) if text[6:].startswith(name)]
    return " ".join(text.strip() for text in lines[start : start + 2])


def test_all_good(server: Server) -> None:
    done = check(server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert [text[:6] for text in done.stdout.splitlines()[1:5]] == ["ok    "] * 4
    assert '1 listed, the first is "a\\"b/count"' in line(done, "models")
    assert '" 1 2 3"' in line(done, "completion")
    assert "16 events" in line(done, "stream")
    assert done.stdout.endswith("All 4 checks passed.\n")
    assert "\033" not in done.stdout


def test_the_listed_model_is_asked(server: Server) -> None:
    check(server.url)
    assert [json.loads(body)["model"] for body in server.requests] == ['a"b/count'] * 2


@pytest.mark.parametrize("suffix", ["/", "/v1", "/v1/"])
def test_the_address_that_clients_are_given_works_too(server: Server, suffix: str) -> None:
    assert check(server.url + suffix).returncode == 0


def test_spaces_in_json_and_crlf_in_streams_are_fine(server: Server) -> None:
    server.answers["/v1/models"] = Answer(body='{ "data" : [ { "id" : "m" } ] }')
    body = GOOD["stream"].body.replace("\n", "\r\n")
    server.answers["stream"] = Answer(content_type=SSE, body=body)
    assert check(server.url).returncode == 0


def test_a_model_that_thinks_first_is_fine(server: Server) -> None:
    thinks = Answer(body='{"choices":[{"message":{"content":"","reasoning_content":"Well"}}]}')
    server.answers["completion"] = thinks
    body = GOOD["stream"].body.replace('"content"', '"reasoning_content"')
    server.answers["stream"] = Answer(content_type=SSE, body=body)
    assert check(server.url).returncode == 0


def test_text_that_looks_like_an_error_is_fine(server: Server) -> None:
    body = event('{"error": {"message": "x"}}') + event("data: [DONE") + "data: [DONE]\n\n"
    server.answers["stream"] = Answer(content_type=SSE, body=body)
    assert check(server.url).returncode == 0


def test_refused_port() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        done = check(f"http://127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"connection refused, or no way to 127.0.0.1:{port}" in line(done, "health")
    assert "systemctl status heartcode" in line(done, "health")
    assert "The other checks are left out" in done.stdout
    assert "1 of 4 checks failed" in done.stdout


def test_a_server_that_is_still_loading(server: Server) -> None:
    server.answers["/health"] = error("Loading model", 503)
    done = check(server.url)
    assert done.returncode == 1
    assert "HTTP 503" in line(done, "health")
    assert '"Loading model"' in line(done, "health")
    assert "Loading a model, draining, or no GPU works" in line(done, "health")
    assert "1 of 4 checks failed." in done.stdout


def test_no_model(server: Server) -> None:
    server.answers["/v1/models"] = Answer(body='{"object":"list","data":[]}')
    done = check(server.url)
    assert done.returncode == 1
    assert "the list holds no model" in line(done, "models")
    assert all("model" not in json.loads(body) for body in server.requests)


def test_an_empty_completion(server: Server) -> None:
    server.answers["completion"] = Answer(body='{"choices":[{"message":{"content":""}}]}')
    done = check(server.url)
    assert done.returncode == 1
    assert "the answer holds no text" in line(done, "completion")


def test_a_stream_that_ends_without_done(server: Server) -> None:
    server.answers["stream"] = Answer(content_type=SSE, body="".join(COUNTED[:5]))
    done = check(server.url)
    assert done.returncode == 1
    assert "ended without [DONE] after 5 events" in line(done, "stream")


def test_a_stream_whose_connection_is_cut(server: Server) -> None:
    body = "".join(COUNTED[:7])
    server.answers["stream"] = Answer(content_type=SSE, body=body, promised_length=99999)
    done = check(server.url)
    assert done.returncode == 1
    assert "ended without [DONE] after 7 events" in line(done, "stream")


def test_an_error_inside_the_stream(server: Server) -> None:
    failed = 'data: {"error": {"message": "the GPU fell off", "code": 500}}\n\ndata: [DONE]\n\n'
    server.answers["stream"] = Answer(content_type=SSE, body="".join(COUNTED) + failed)
    done = check(server.url)
    assert done.returncode == 1
    assert 'an error in the stream: "the GPU fell off"' in line(done, "stream")


def test_a_stream_in_one_lump(server: Server) -> None:
    server.answers["stream"] = Answer(content_type=SSE, body=event(" 1 2 3") + "data: [DONE]\n\n")
    done = check(server.url)
    assert done.returncode == 1
    assert "text in only 1 event, where several were asked for" in line(done, "stream")


def test_a_stream_of_another_content_type(server: Server) -> None:
    server.answers["stream"] = Answer(content_type=JSON, body=GOOD["completion"].body)
    done = check(server.url)
    assert done.returncode == 1
    assert "the content type is application/json, not text/event-stream" in line(done, "stream")


def test_a_web_page_instead_of_an_api(server: Server) -> None:
    page = Answer(content_type="text/html; charset=utf-8", body="<html>Welcome</html>")
    server.answers = dict.fromkeys(GOOD, page)
    done = check(server.url)
    assert done.returncode == 1
    for name in ("health", "models", "completion", "stream"):
        assert "the answer is a web page (HTML)" in line(done, name)
        assert "is the port right" in line(done, name)
    assert "4 of 4 checks failed" in done.stdout


def test_a_redirect_is_named_and_not_followed(server: Server) -> None:
    server.answers["/health"] = Answer(status=301, headers={"Location": "https://rig/health"})
    done = check(server.url)
    assert done.returncode == 1
    assert "HTTP 301 It redirects to https://rig/health" in line(done, "health")


@pytest.mark.parametrize(
    ("env", "advice"),
    [
        ({}, "No API key was sent: set HEARTCODE_API_KEY or use --key-file."),
        ({"HEARTCODE_API_KEY": "wrong"}, "The API key was not accepted"),
    ],
)
def test_a_refused_key(server: Server, env: dict[str, str], advice: str) -> None:
    refused = error("invalid key", 401)
    server.answers |= {"/v1/models": refused, "completion": refused, "stream": refused}
    done = check(server.url, **env)
    assert done.returncode == 1
    assert 'HTTP 401: "invalid key"' in line(done, "models")
    assert advice in line(done, "models")
    assert "3 of 4 checks failed" in done.stdout


def test_a_key_with_quotes_arrives_whole_and_is_not_shown(server: Server) -> None:
    key = 'sk-"a\\b c'
    done = check(server.url, HEARTCODE_API_KEY=key)
    assert done.returncode == 0
    assert server.keys == {f"Bearer {key}"}
    assert "sk-" not in done.stdout + done.stderr


def test_a_key_file_goes_before_the_environment(server: Server, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("sk-file\r\nsecond line\n")
    assert check("--key-file", key_file, server.url, HEARTCODE_API_KEY="sk-env").returncode == 0
    assert server.keys == {"Bearer sk-file"}


@pytest.mark.parametrize("where", ["file", "environment"])
def test_the_mark_that_some_editors_begin_with_is_no_part_of_a_key(
    server: Server, tmp_path: Path, where: str
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("\ufeffsk-file\n")
    if where == "file":
        done = check("--key-file", key_file, server.url)
    else:
        done = check(server.url, HEARTCODE_API_KEY="\ufeffsk-file")
    assert done.returncode == 0
    assert server.keys == {"Bearer sk-file"}


@pytest.mark.parametrize("content", ["sk-file".encode("utf-16"), "sk-fil\u00e9".encode(), b"\xff"])
def test_a_key_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(content)
    done = check("--key-file", key_file)
    assert (done.returncode, done.stdout) == (2, "")
    assert "health_check.sh: the API key " in done.stderr
    assert "sk-" not in done.stderr


def test_no_key_no_header(server: Server) -> None:
    assert check(server.url).returncode == 0
    assert server.keys == {None}


def test_a_hung_server_is_left_after_the_time_limit(server: Server) -> None:
    server.answers["/health"] = Answer(delay=1.5)
    done = check(server.url, HEARTCODE_HEALTH_TIMEOUT="1")
    assert done.returncode == 1
    assert "no answer within the time limit" in line(done, "health")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate as the gateway makes itself one, for this machine; its key is beside it."""
    directory = tmp_path_factory.mktemp("tls")
    file = directory / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=gateway", "-days", "2"),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", directory / "key.pem", "-out", file),
        ],
        capture_output=True,
        check=True,
    )
    return file


@pytest.fixture
def tls(server: Server, certificate: Path) -> str:
    """The server's URL, now that it speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    return server.url.replace("http:", "https:")


def test_a_certificate_that_is_trusted(tls: str, certificate: Path) -> None:
    done = check(tls, CURL_CA_BUNDLE=str(certificate))
    assert done.returncode == 0, done.stdout


def test_a_certificate_that_nobody_knows(tls: str) -> None:
    done = check(tls)
    assert done.returncode == 1
    assert "TLS: self-signed certificate Is it http://" in line(done, "health")
    assert "CURL_CA_BUNDLE=ca.pem" in line(done, "health")
    assert "The other checks are left out" in done.stdout


def test_a_certificate_for_another_name(tls: str, certificate: Path) -> None:
    other = tls.replace("127.0.0.1", "localhost")
    done = check(other, CURL_CA_BUNDLE=str(certificate))
    assert "TLS: Hostname mismatch" in line(done, "health")


def test_a_bundle_that_is_not_there_is_named(tls: str) -> None:
    done = check(tls, CURL_CA_BUNDLE="/nonexistent.pem")
    assert "TLS: CURL_CA_BUNDLE: /nonexistent.pem: No such file" in line(done, "health")


def test_tls_where_none_is_spoken(server: Server) -> None:
    done = check(server.url.replace("http:", "https:"))
    assert done.returncode == 1
    assert "FAIL  health      TLS: " in done.stdout


def test_what_a_server_sends_cannot_steer_the_terminal(server: Server) -> None:
    body = '{"error": {"message": "\033[2Jgone\007"}}'
    server.answers["completion"] = Answer(status=500, body=body)
    done = check(server.url)
    assert "gone" in line(done, "completion")
    assert "\033" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["localhost:8080"], "not a URL: localhost:8080 (write it like http://localhost:8080)"),
        (["http://a", "http://b"], "one URL only, not also: http://b"),
        ([""], "the URL is empty"),
        (["--fast"], "unknown option: --fast"),
        (["--key-file"], "--key-file needs a file name"),
        (["--key-file", "/nonexistent"], "cannot read key file: /nonexistent"),
        (["--key-file", "/"], "cannot read key file: /"),
    ],
)
def test_wrong_usage(arguments: list[str], message: str) -> None:
    done = check(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"health_check.sh: {message}\n" in done.stderr


@pytest.mark.parametrize("value", ["0", "1.5", "soon", "-1"])
def test_a_time_limit_that_is_none(value: str) -> None:
    done = check("http://localhost", HEARTCODE_HEALTH_TIMEOUT=value)
    assert done.returncode == 2
    assert f"HEARTCODE_HEALTH_TIMEOUT must be whole seconds, 1 or more, not: {value}" in done.stderr


def test_an_empty_key_file(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("\n")
    done = check("--key-file", key_file)
    assert done.returncode == 2
    assert f"no key in the first line of: {key_file}" in done.stderr


def test_without_python_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "bash").symlink_to("/bin/bash")
    (tmp_path / "env").symlink_to("/usr/bin/env")
    done = check("http://localhost", PATH=str(tmp_path))
    assert done.returncode == 2
    assert "python3 is not installed: apt-get install python3" in done.stderr


def test_it_can_be_called_by_a_link(server: Server, tmp_path: Path) -> None:
    link = tmp_path / "check"
    link.symlink_to(SCRIPT)
    done = subprocess.run([link, server.url], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help() -> None:
    done = check("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: health_check.sh [--key-file FILE] [--json] [URL]\n")
    assert "HEARTCODE_API_KEY" in done.stdout


def test_who_reads_no_further_sees_no_traceback(server: Server) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [SCRIPT, server.url], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.stderr == ""


def test_colours_are_for_terminals(server: Server) -> None:
    ours, theirs = os.openpty()
    subprocess.run([SCRIPT, server.url], stdout=theirs, check=True)
    assert b"\033[32mok\033[0m    health " in os.read(ours, 65536)
    subprocess.run(
        [SCRIPT, server.url], stdout=theirs, check=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert b"\033" not in os.read(ours, 65536)


def test_no_temporary_files_are_left(server: Server, tmp_path: Path) -> None:
    check(server.url, TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


FLEET: dict[str, list[dict[str, Any]]] = {
    "rigs": [
        {
            "name": "rig1",
            "state": "up",
            "backends": [
                {
                    "number": number,
                    "backend": f"127.0.0.1:{8081 + number}",
                    "model": "a model",
                    "state": "up",
                    "slots": 2,
                    "busy": number,
                }
                for number in (0, 1)
            ],
        },
        {"name": "a-longer-name", "state": "unreachable", "backends": []},
    ]
}


def fleet(server: Server, rigs: list[dict[str, Any]]) -> None:
    """Let the server tell of these rigs, as the proxy and the gateway do."""
    server.answers["/fleet"] = Answer(body=json.dumps({"rigs": rigs}))


def rigs_with(**changes: Any) -> list[dict[str, Any]]:
    """Rig1 alone, whose second card is changed; `rig_state` changes the rig."""
    (rig, _) = copy.deepcopy(FLEET["rigs"])
    rig["state"] = changes.pop("rig_state", rig["state"])
    rig["backends"][1] |= changes
    return [rig]


def table(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What stands between the two empty lines."""
    return done.stdout.split("\n\n")[1].splitlines()


def test_all_cards_serve(server: Server) -> None:
    fleet(server, rigs_with())
    done = check(server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all 2 cards of 1 rig serve" in line(done, "cards")
    assert table(done) == [
        "Rig   Card  Backend         Model    State  In use",
        "rig1  0     127.0.0.1:8081  a model  up     0 of 2",
        "rig1  1     127.0.0.1:8082  a model  up     1 of 2",
    ]
    assert done.stdout.endswith("All 5 checks passed.\n")


def test_cards_of_a_group_are_counted_and_the_one_that_is_gone_is_named(server: Server) -> None:
    (rig,) = rigs_with()
    group, alone = rig["backends"]
    group["cards"], alone["cards"] = ["GPU-a", "GPU-b"], ["GPU-c"]
    fleet(server, [rig])
    done = check(server.url)
    assert done.returncode == 0, done.stdout
    assert "all 3 cards of 1 rig serve" in line(done, "cards")
    assert table(done)[1] == "rig1  0 (2 cards)  127.0.0.1:8081  a model  up     0 of 2"
    group |= {"state": "gone", "gone": "GPU-b: the GPU is lost"}
    fleet(server, [rig])
    done = check(server.url)
    assert done.returncode == 3
    said = "1 of 3 cards serve: backend 0 of rig1 with 2 cards lacks GPU-b: the GPU is lost"
    assert said in line(done, "cards")
    assert "cat /run/heartcode/llama/0.quarantined" in line(done, "cards")
    group["gone"] = "GPU-b@rig2: rig2: no cards are lent at 10.0.0.2:50052: Connection refused"
    fleet(server, [rig])
    assert "On rig2: systemctl status heartcode-rpc@0" in line(check(server.url), "cards")
    # What no proxy would say is no list of cards.
    group["cards"] = 3
    fleet(server, [rig])
    assert "the list of rigs and cards cannot be read" in line(check(server.url), "cards")


def test_a_rig_that_is_gone(server: Server) -> None:
    fleet(server, FLEET["rigs"])
    done = check(server.url)
    assert done.returncode == 3
    assert line(done, "cards") == (
        "warn  cards       2 of 2 cards serve: a-longer-name is unreachable"
        " Has a-longer-name power and network? On it: systemctl status heartcode"
    )
    assert [row.split("  ")[0] for row in table(done)] == ["Rig", "rig1", "rig1", "a-longer-name"]
    assert len({row.index(word) for row, word in zip(table(done), STATES, strict=True)}) == 1
    assert done.stdout.endswith("It serves, but with less than it has.\n")


STATES = ("State", "up", "up", "unreachable")


@pytest.mark.parametrize(
    ("changes", "said", "advice"),
    [
        ({"state": "down"}, "card 1 of rig1 is down", "systemctl status heartcode-llama@1"),
        ({"state": "gone"}, "card 1 of rig1 is gone", "cat /run/heartcode/llama/1.quarantined"),
        ({"state": "starting"}, "card 1 of rig1 is starting", "heartcode-llama@1"),
        ({"state": "other_model"}, "card 1 of rig1 is other_model", "Run playbooks/site.yml, or"),
    ],
)
def test_a_card_that_does_not_serve(
    server: Server, changes: dict[str, str], said: str, advice: str
) -> None:
    fleet(server, rigs_with(rig_state="degraded", **changes))
    done = check(server.url)
    assert done.returncode == 3
    assert f"1 of 2 cards serve: {said}" in line(done, "cards")
    assert advice in line(done, "cards")
    assert changes["state"] in table(done)[2]


def test_a_rig_that_drains_beside_one_that_serves(server: Server) -> None:
    draining = rigs_with(rig_state="draining")[0] | {"name": "rig2"}
    fleet(server, [*rigs_with(), draining])
    done = check(server.url)
    assert done.returncode == 3
    assert "2 of 4 cards serve: rig2 is draining, and 1 more" in line(done, "cards")
    assert "rm /run/heartcode/draining" in line(done, "cards")


def test_a_rig_with_an_older_proxy(server: Server) -> None:
    fleet(server, [*rigs_with(), {"name": "rig2", "state": "unknown", "backends": []}])
    done = check(server.url)
    assert done.returncode == 3
    assert "rig2 does not tell of its cards" in line(done, "cards")


def test_no_card_serves(server: Server) -> None:
    fleet(server, FLEET["rigs"][1:])
    server.answers["/health"] = error("no rig is ready", 503)
    done = check(server.url)
    assert done.returncode == 1
    assert "none of 0 cards serves: a-longer-name is unreachable" in line(done, "cards")
    assert "a-longer-name" in table(done)[1]
    assert "2 of 5 checks failed." in done.stdout


def test_what_fails_is_worse_than_what_is_missing(server: Server) -> None:
    fleet(server, FLEET["rigs"])
    server.answers["stream"] = error("no", 500)
    done = check(server.url)
    assert done.returncode == 1
    assert "warn  cards" in done.stdout


@pytest.mark.parametrize(
    "answer",
    [
        Answer(content_type="text/plain", body="it works\n"),
        *(
            Answer(body=body)
            for body in (
                "",
                "{}",
                "[]",
                '{"rigs": []}',
                '{"rigs": 1}',
                '{"rigs": [{}]}',
                '{"rigs": [{"name": "a", "state": "up"}]}',
                '{"rigs": [{"name": "a", "state": "up", "backends": [1]}]}',
                '{"rigs": [{"name": "a", "state": "up", "backends": [{"number": 0, "slots": 1}]}]}',
                "[" * 100_000,
            )
        ),
    ],
)
def test_a_list_that_is_none(server: Server, answer: Answer) -> None:
    server.answers["/fleet"] = answer
    done = check(server.url)
    assert done.returncode == 1
    assert "the list of rigs and cards cannot be read" in line(done, "cards")


def test_a_gateway_that_refuses_the_key(server: Server) -> None:
    server.answers["/fleet"] = error("invalid key", 401)
    done = check(server.url, HEARTCODE_API_KEY="wrong")
    assert done.returncode == 1
    assert "The API key was not accepted" in line(done, "cards")


def test_rigs_cannot_steer_the_terminal(server: Server) -> None:
    fleet(server, rigs_with(model="\033[2Jm\007"))
    done = check(server.url)
    assert done.returncode == 0
    assert "[2Jm" in table(done)[2]
    assert "\033" not in done.stdout


@pytest.mark.parametrize(("rigs", "code"), [(rigs_with(), 0), (FLEET["rigs"], 3)])
def test_json_is_all_that_is_printed(server: Server, rigs: list[dict[str, Any]], code: int) -> None:
    fleet(server, rigs)
    done = check("--json", server.url)
    assert done.returncode == code
    assert json.loads(done.stdout) == {"rigs": rigs}
    assert "ok    stream" in done.stderr


def test_json_of_what_knows_no_cards(server: Server) -> None:
    done = check("--json", server.url)
    assert (done.returncode, done.stdout) == (1, "")
    assert "HTTP 404" in done.stderr
