"""What the page /status is made of, and who may read it; tests/pages looks at it."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
import requests

from tests.contracts.test_status_page import queries
from tests.gateway.clients import error_of, get, get_as_it_stands
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import Gateway
from tests.gateway.rigs import tell_all
from tests.gateway.variants import NEAR
from tests.integration.misbehaving import Upstream

NAMES = [*queries(), "alerts"]


@pytest.fixture
def prometheus() -> Iterator[Upstream]:
    with Upstream(tell_all) as upstream:
        yield upstream


@pytest.fixture
def gateway(start_gateway: StartGateway, prometheus: Upstream) -> Gateway:
    return start_gateway(prometheus=prometheus.port)


def code(answer: requests.Response) -> str:
    found: str = error_of(answer)["code"]
    return found


@pytest.mark.parametrize("path", ["/status", "/status/"])
def test_the_page_itself_is_open_and_reaches_nothing_but_its_own(
    gateway: Gateway, path: str
) -> None:
    page = get(gateway, path)
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = dict(x.split(" ", 1) for x in page.headers["Content-Security-Policy"].split("; "))
    assert set(policy.values()) == {"'none'", "'self'"}
    assert policy["connect-src"] == policy["script-src"] == policy["style-src"] == "'self'"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["X-Request-Id"]
    named = re.findall(r'(?:href|src)="(/status/[^"]+)"', page.text)
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert {name.rsplit(".")[-1] for name in named} == set(kinds)
    for name in [*named, "/status/fleet.js", "/status/key.js"]:
        file = get(gateway, name)
        assert file.status_code == 200, name
        assert file.headers["Content-Type"].startswith(kinds[name.rsplit(".")[-1]]), name


@pytest.mark.parametrize("path", ["/status/none.js", "/status.html", "/status/data/", "/statusx"])
def test_nothing_else_is_there(gateway: Gateway, path: str) -> None:
    assert get(gateway, path).status_code in (401, 404)
    answer = get(gateway, path, **gateway.authorization)
    assert answer.status_code == 404
    assert code(answer) == "not_found"


@pytest.mark.parametrize("name", NAMES)
def test_values_are_for_who_has_a_key(gateway: Gateway, prometheus: Upstream, name: str) -> None:
    path = f"/status/data/{name}"
    for headers in ({}, {"Authorization": "Bearer not-the-key-of-anybody"}):
        refused = get(gateway, path, **headers)
        assert refused.status_code == 401
        assert code(refused) == "invalid_api_key"
    assert prometheus.requests == []
    answer = get(gateway, path, **{"X-Api-Key": gateway.key})
    assert answer.status_code == 200
    assert answer.json()["status"] == "success"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-Id"]


def asked(prometheus: Upstream) -> tuple[str, list[tuple[str, str]]]:
    """The path and the arguments of the one question that has come."""
    (request,) = prometheus.requests
    assert (request.method, request.body) == ("GET", b"")
    url = urlsplit(request.path)
    return url.path, parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stands_for_one_question(gateway: Gateway, prometheus: Upstream, name: str) -> None:
    assert get(gateway, f"/status/data/{name}", **gateway.authorization).ok
    path, arguments = asked(prometheus)
    if name == "alerts":
        assert (path, arguments) == ("/api/v1/alerts", [])
    else:
        assert (path, arguments) == ("/api/v1/query", [("query", queries()[name])])


@pytest.mark.parametrize(
    "arguments", ["?query=up", "?query=up&query=up", "?time=0", "?a=%26query%3Dup", "?timeout=1h"]
)
def test_no_client_asks_a_question_of_its_own(
    gateway: Gateway, prometheus: Upstream, arguments: str
) -> None:
    assert get(gateway, f"/status/data/scraped{arguments}", **gateway.authorization).ok
    assert asked(prometheus) == ("/api/v1/query", [("query", queries()["scraped"])])


@pytest.mark.parametrize(
    "path",
    [
        *("/status/data/up", "/status/data/now/", "/status/data/now%3Fquery=up"),
        *("/status/data/../data/query", "/status/data/%2e%2e/api/v1/query?query=up"),
        *("/api/v1/query?query=up", "/api/v1/status/config", "/status/api/v1/query?query=up"),
    ],
)
def test_nothing_else_of_prometheus_is_reached(
    gateway: Gateway, prometheus: Upstream, path: str
) -> None:
    answer = get_as_it_stands(gateway, path, **gateway.authorization)
    assert answer.status_code == 404
    assert code(answer) == "not_found"
    assert prometheus.requests == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_is_only_read(gateway: Gateway, prometheus: Upstream, method: str) -> None:
    answer = requests.request(
        method,
        f"{gateway.url}/status/data/now",
        headers=gateway.authorization,
        data={"query": "up"},
        timeout=30,
    )
    assert answer.status_code == 405
    assert code(answer) == "method_not_allowed"
    assert prometheus.requests == []


def test_nothing_of_a_client_reaches_prometheus(gateway: Gateway, prometheus: Upstream) -> None:
    """And nothing of the headers comes back with which it answers web pages of other origins."""
    sent = {"Origin": "https://example.org", "X-Of-The-Client": "x", "Accept-Encoding": "gzip"}
    answer = get(gateway, "/status/data/scraped", **gateway.authorization, **sent)
    assert answer.status_code == 200
    (request,) = prometheus.requests
    assert set(request.headers) == {"host", "connection", "accept-encoding"}
    assert request.headers["connection"] == "close"
    foreign = [name for name in answer.headers if name.lower().startswith("access-control")]
    assert foreign == []
    assert "Vary" not in answer.headers


def test_it_says_when_prometheus_does_not_answer(start_gateway: StartGateway) -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        gateway = start_gateway(prometheus=door.getsockname()[1])
        answer = get(gateway, "/status/data/now", **gateway.authorization)
        assert answer.status_code == 502
        assert code(answer) == "prometheus_unavailable"
        assert get(gateway, "/status/data/now").status_code == 401
        with Upstream(tell_all, door):
            again = get(gateway, "/status/data/now", **gateway.authorization)
    assert again.ok, "it answers again at once"


def test_a_network_may_read_it_without_a_key(
    start_gateway: StartGateway, prometheus: Upstream
) -> None:
    gateway = start_gateway("near", prometheus=prometheus.port)
    assert get(gateway, "/status/data/now", NEAR).status_code == 200
    assert get(gateway, "/status/data/none", NEAR).status_code == 404
    assert get(gateway, "/v1/models", NEAR).status_code == 401
    assert get(gateway, "/status/data/now").status_code == 401
    assert get(gateway, "/status/data/now", **gateway.authorization).status_code == 200


def test_without_keys_the_networks_are_all_who_may(
    start_gateway: StartGateway, prometheus: Upstream
) -> None:
    gateway = start_gateway("open", prometheus=prometheus.port)
    assert get(gateway, "/v1/models").status_code == 200
    refused = get(gateway, "/status/data/now")
    assert refused.status_code == 403
    assert code(refused) == "forbidden"
    assert prometheus.requests == []
    assert get(gateway, "/status/data/now", NEAR).status_code == 200


def test_it_can_be_left_out(
    start_gateway: StartGateway, gateway: Gateway, prometheus: Upstream
) -> None:
    assert 'href="/status"' in get(gateway, "/").text
    without = start_gateway("no_status", prometheus=prometheus.port)
    assert 'href="/status"' not in get(without, "/").text
    for path in ("/status", "/status/data/now", "/status/status.js"):
        assert get(without, path, **without.authorization).status_code == 404
