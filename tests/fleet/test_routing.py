"""Which rig the gateway gives a request to, and what it answers by itself."""

import json
import socket
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fleet.counting import chat, count_to
from tests.fleet.harness import Fleet, log_line, wait_for

CHAT = "/v1/chat/completions"
DRAINING = "/run/heartcode/draining"


def turns(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]


def request_id() -> str:
    return f"routing-{uuid.uuid4()}"


def rigs_of(fleet: Fleet, line: dict[str, Any]) -> list[str]:
    """The rigs that a request was brought to, the last of which has answered it."""
    names = {f"{address}:8080": name for name, address in fleet.addresses.items()}
    return [names[one] for one in line["rig"].replace(" : ", ", ").split(", ")]


def served_by(fleet: Fleet, **fields: Any) -> str:
    identity = request_id()
    answer = chat(fleet, max_tokens=1, headers={"X-Request-Id": identity}, **fields)
    assert answer.status_code == 200, answer.text
    return rigs_of(fleet, log_line(fleet, identity))[-1]


def metric(fleet: Fleet, rig: str, name: str) -> int:
    text = requests.get(f"http://{fleet.addresses[rig]}:9091/metrics", timeout=10).text
    (line,) = (x for x in text.splitlines() if x.startswith(f"{name} "))
    return round(float(line.split()[-1]))


def active(fleet: Fleet) -> dict[str, int]:
    """How many requests each rig has taken in and not answered."""
    return {rig: metric(fleet, rig, "active_requests") for rig in fleet.rigs}


def queued(fleet: Fleet) -> int:
    return sum(metric(fleet, rig, "inference_queue_depth") for rig in fleet.rigs)


def slots(fleet: Fleet) -> dict[str, int]:
    return {rig: 2 * sum(name == rig for name, _ in fleet.backends()) for rig in fleet.rigs}


@contextmanager
def requests_that_stay(
    fleet: Fleet, number: int, *, session: str | None = None
) -> Iterator[list[Future[requests.Response]]]:
    """So many requests, of one session if it is named, that keep their slots until the end.

    All llama-servers stand still meanwhile; the rigs would call that a hang after 45 s.
    """
    headers = {"X-Session-Id": session} if session else {}
    signal = "systemctl kill --signal={} 'heartcode-llama@*.service'"
    with ThreadPoolExecutor(number + 1) as pool:
        for rig in fleet.rigs:
            fleet.ssh(rig, signal.format("STOP"))
        try:
            sent = [
                pool.submit(
                    chat,
                    fleet,
                    max_tokens=20,
                    messages=turns(uuid.uuid4().hex),
                    headers=headers,
                )
                for _ in range(number)
            ]
            wait_for(
                lambda: sum(active(fleet).values()) == number, f"the rigs have {number} requests"
            )
            yield sent
        finally:
            for rig in fleet.rigs:
                fleet.ssh(rig, signal.format("CONT"))
    for answer in sent:
        content = answer.result().json()["choices"][0]["message"]["content"]
        assert content.split() == count_to(20)


def error_of(answer: requests.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/json"
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_conversation_stays_with_its_rig(fleet: Fleet) -> None:
    said = [f"I am {uuid.uuid4().hex}. Count!"]
    rigs = []
    for _ in range(4):
        rigs.append(served_by(fleet, messages=turns(*said)))
        said += ["1", "Go on!"]
    assert len(set(rigs)) == 1, rigs


def test_conversations_are_spread_over_the_rigs(fleet: Fleet) -> None:
    with ThreadPoolExecutor(4) as pool:
        rigs = pool.map(lambda n: served_by(fleet, messages=turns(f"Conversation {n}")), range(24))
    assert set(rigs) == set(fleet.rigs)


def test_a_session_s_name_decides(fleet: Fleet) -> None:
    names = {"X-Session-Id": uuid.uuid4().hex}
    rigs = set()
    for n in range(4):
        names["X-Request-Id"] = request_id()
        chat(fleet, max_tokens=1, messages=turns(f"Something else {n}"), headers=names)
        rigs.add(rigs_of(fleet, log_line(fleet, names["X-Request-Id"]))[-1])
    assert len(rigs) == 1


@pytest.fixture
def third(fleet: Fleet) -> Iterator[str]:
    """The address of a third rig, which is rig1 behind another door."""
    port, unit = 4097, "third-rig"
    fleet.ssh(
        "gateway",
        f"systemd-run --quiet --unit={unit} --socket-property=ListenStream=127.0.0.1:{port}"
        f" /usr/lib/systemd/systemd-socket-proxyd {fleet.addresses['rig1']}:8080",
    )
    yield f"127.0.0.1:{port}"
    fleet.ssh("gateway", f"systemctl stop {unit}.socket {unit}.service", check=False)


def addresses_of(fleet: Fleet, conversations: int) -> list[str]:
    """Which of the gateway's upstreams answers each conversation."""
    series = f"share-{uuid.uuid4()}"
    for n in range(conversations):
        names = {"X-Request-Id": f"{series}-{n:02}", "X-Session-Id": f"conversation {n}"}
        assert chat(fleet, max_tokens=1, messages=turns("Count!"), headers=names).ok

    def logged() -> list[str]:
        return fleet.ssh("gateway", f"grep -h {series} /var/log/nginx/heartcode.log").splitlines()

    wait_for(lambda: len(logged()) == conversations, "the gateway has logged them all")
    lines = sorted(map(json.loads, logged()), key=lambda line: str(line["id"]))
    return [line["rig"].replace(" : ", ", ").split(", ")[-1] for line in lines]


def test_a_rig_that_is_added_takes_its_share_and_no_more(
    fleet: Fleet, tmp_path: Path, third: str
) -> None:
    models = [{"names": ["counting"], "slots": 4}]
    two = [f"{fleet.addresses[rig]}:8080" for rig in fleet.rigs]
    fleet.set_up_gateway(
        tmp_path, gateway_upstreams=[{"address": a, "models": models} for a in two]
    )
    before = addresses_of(fleet, 30)
    assert set(before) == set(two)
    try:
        fleet.set_up_gateway(
            tmp_path,
            gateway_upstreams=[{"address": a, "models": models} for a in (*two, third)],
        )
        wait_for(lambda: third in addresses_of(fleet, 30), "the new rig is asked")
        after = addresses_of(fleet, 30)
        moved = {new for old, new in zip(before, after, strict=True) if new != old}
        assert moved == {third}
        assert after.count(third) <= 20, "about a third of them"
    finally:
        fleet.set_up_gateway(tmp_path)
    wait_for(lambda: addresses_of(fleet, 30) == before, "each is where it was")


@pytest.mark.usefixtures("disturbs")
def test_no_request_waits_while_another_rig_has_a_free_slot(fleet: Fleet) -> None:
    """All of one session want the same rig: what it has no slot for goes to the other."""
    whole = slots(fleet)
    with requests_that_stay(fleet, sum(whole.values()), session=uuid.uuid4().hex):
        assert active(fleet) == whole
        # On its rig one may hold out for a better cache than the free slot's (ADR 7), for a moment.
        wait_for(lambda: queued(fleet) == 0, "every request has a slot")


@pytest.mark.usefixtures("disturbs")
def test_when_all_slots_are_busy_a_request_waits_and_is_served(fleet: Fleet) -> None:
    number = sum(slots(fleet).values())
    with ThreadPoolExecutor(1) as pool:
        with requests_that_stay(fleet, number):
            waiting = pool.submit(chat, fleet, max_tokens=3, messages=turns(uuid.uuid4().hex))
            wait_for(lambda: queued(fleet) == 1, "one request waits")
        answer = waiting.result()
    assert answer.json()["choices"][0]["message"]["content"].split() == count_to(3)


@pytest.fixture
def no_queues(fleet: Fleet) -> Iterator[None]:
    """Rigs on which nobody may wait."""
    env, unit = "/etc/heartcode/heartcode.env", "heartcode.service"
    for rig in fleet.rigs:
        change = f"cp -a {env} {env}.kept && echo HEARTCODE_QUEUE_LENGTH=0 >>{env}"
        fleet.ssh(rig, f"{change} && systemctl reload {unit}")
    yield
    for rig in fleet.rigs:
        fleet.ssh(rig, f"mv {env}.kept {env} && systemctl reload {unit}")


@pytest.mark.usefixtures("disturbs", "no_queues")
def test_when_all_queues_are_full_the_client_is_told_when_to_come_again(fleet: Fleet) -> None:
    identity = request_id()
    with requests_that_stay(fleet, sum(slots(fleet).values())):
        answer = chat(fleet, max_tokens=1, headers={"X-Request-Id": identity})
    assert answer.status_code == 429
    assert error_of(answer)["code"] == "queue_full"
    assert int(answer.headers["Retry-After"]) > 0
    line = log_line(fleet, identity)
    assert line["rig_status"] == "403, 403 : 403, 403", (
        "each was asked for a slot and for its queue"
    )


def test_an_unknown_model_is_told_by_the_gateway(fleet: Fleet) -> None:
    identity = request_id()
    answer = chat(fleet, max_tokens=1, model="nobody's", headers={"X-Request-Id": identity})
    assert answer.status_code == 404
    error = error_of(answer)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert answer.headers["X-Request-Id"] == identity
    assert log_line(fleet, identity)["rig"] == ""


@pytest.mark.parametrize("model", [None, "", "undefined", "counting"])
def test_the_default_model_has_many_names(fleet: Fleet, model: str | None) -> None:
    assert chat(fleet, max_tokens=1, model=model).status_code == 200


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_the_models_are_those_of_the_fleet(fleet: Fleet, path: str) -> None:
    def get(what: str) -> requests.Response:
        return requests.get(fleet.url + what, headers=fleet.authorization, timeout=10)

    listed = get(path).json()
    (model,) = listed["data"]
    assert (listed["object"], model["id"], model["object"]) == ("list", "counting", "model")
    assert get(f"{path}/counting").json() == model
    assert error_of(get(f"{path}/x"))["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "fields", "expected"),
    [
        ("POST", CHAT, {"data": "{"}, (400, "invalid_json")),
        ("POST", CHAT, {"data": "[]"}, (400, "invalid_json")),
        ("POST", CHAT, {"data": ""}, (400, "invalid_json")),
        ("POST", CHAT, {"data": b"x" * (10 * 1024 * 1024 + 1)}, (413, "request_too_large")),
        ("POST", CHAT, {"json": {"messages": []}}, (400, "invalid_value")),  # the rig's answer
        ("GET", CHAT, {}, (405, "method_not_allowed")),
        ("DELETE", "/v1/models", {}, (405, "method_not_allowed")),
        ("GET", "/nowhere", {}, (404, "not_found")),
        ("POST", "/props", {"json": {}}, (405, "method_not_allowed")),
        ("GET", "/.heartcode/503", {}, (404, "not_found")),
        ("GET", "/" + "x" * 9000, {}, (414, "request_line_too_long")),
        ("GET", "/health", {"headers": {"X-Long": "x" * 9000}}, (431, "headers_too_large")),
    ],
)
def test_errors_have_openai_s_shape(
    fleet: Fleet, method: str, path: str, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    sent = fields | {"headers": fleet.authorization | fields.get("headers", {})}
    answer = requests.request(method, fleet.url + path, timeout=30, **sent)
    assert (answer.status_code, error_of(answer)["code"]) == expected
    if answer.status_code == 405:
        assert answer.headers["Allow"]


def test_what_is_no_http_gets_json_too(fleet: Fleet) -> None:
    host, port = fleet.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        answer = connection.makefile("rb").read()
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "bad_request"


@pytest.mark.usefixtures("disturbs")
def test_a_draining_rig_gets_nothing_new_and_ends_what_it_has(fleet: Fleet) -> None:
    try:
        with requests_that_stay(fleet, sum(slots(fleet).values())):
            fleet.ssh("rig1", f"touch {DRAINING}")
        rigs = {served_by(fleet, messages=turns(f"While it drains {n}")) for n in range(8)}
    finally:
        fleet.ssh("rig1", f"rm -f {DRAINING}")
    assert rigs == {"rig2"}


@pytest.mark.usefixtures("disturbs")
def test_a_request_moves_off_a_rig_whose_cable_is_pulled(fleet: Fleet) -> None:
    """Its connection stays open and silent: the kernel's keepalive finds out."""
    with requests_that_stay(fleet, 1) as (sent,):
        (rig,) = (name for name, number in active(fleet).items() if number)
        (other,) = set(fleet.rigs) - {rig}
        fleet.ssh(other, "systemctl kill --signal=CONT 'heartcode-llama@*.service'")
        fleet.tool("cut", rig)
        try:
            assert sent.result(timeout=90).status_code == 200
        finally:
            fleet.tool("restore", rig)


@pytest.mark.usefixtures("disturbs")
def test_without_a_rig_the_gateway_says_so(fleet: Fleet) -> None:
    for rig in fleet.rigs:
        fleet.ssh(rig, f"touch {DRAINING}")
    try:
        answer = chat(fleet, max_tokens=1)
        assert answer.status_code == 503
        assert error_of(answer)["code"] == "draining"
        assert int(answer.headers["Retry-After"]) > 0
        wait_for(
            lambda: requests.get(f"{fleet.url}/health", timeout=10).status_code == 503,
            "/health tells that no rig serves",
        )
    finally:
        for rig in fleet.rigs:
            fleet.ssh(rig, f"rm {DRAINING}")


def test_the_log_tells_a_request_s_way_and_nothing_of_its_words(fleet: Fleet) -> None:
    identity, secret = request_id(), uuid.uuid4().hex
    requests.post(
        f"{fleet.url}/v1/completions?key={secret}",
        json={"prompt": secret, "max_tokens": 1},
        headers={"X-Request-Id": identity, **fleet.authorization},
        timeout=30,
    )
    line = log_line(fleet, identity)
    assert (line["status"], line["model"], line["path"]) == (200, "counting", "/v1/completions")
    assert line["method"] == "POST"
    assert rigs_of(fleet, line)[0] in fleet.rigs
    assert float(line["rig_header_s"]) <= line["duration_s"] + 0.01
    assert line["bytes_out"] > 0
    logs = "/var/log/nginx/*"
    assert fleet.ssh("gateway", f"grep -l -e {secret} -e {fleet.key} {logs}", check=False) == ""
