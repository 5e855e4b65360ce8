"""The page that the gateway shows to people; `make test-pages` looks at it in a browser."""

from __future__ import annotations

import re

import pytest
import requests

from tests.gateway.clients import error_of, get
from tests.gateway.conftest import StartGateway
from tests.gateway.nginx import Gateway


@pytest.fixture
def gateway(start_gateway: StartGateway) -> Gateway:
    return start_gateway()


def test_it_says_the_address_by_which_it_was_asked(gateway: Gateway) -> None:
    page = get(gateway, "/")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"{gateway.url}/v1</code>" in page.text
    assert f"curl -N {gateway.url}/v1/chat/completions" in page.text


def test_an_address_with_signs_of_html_is_only_text(gateway: Gateway) -> None:
    page = get(gateway, "/", Host='x"><script>')
    assert '<code id="address">http://x&quot;&gt;&lt;script&gt;/v1</code>' in page.text
    assert "<script>" not in page.text


def test_every_file_that_it_names_is_there_and_of_its_kind(gateway: Gateway) -> None:
    named = set(re.findall(r'(?:href|src)="(/page/[^"]+)"', get(gateway, "/").text))
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert {name.rsplit(".")[-1] for name in named} == set(kinds)
    for name in named:
        file = get(gateway, name)
        assert file.status_code == 200, name
        assert file.headers["Content-Type"].startswith(kinds[name.rsplit(".")[-1]]), name


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_it_may_run_and_reach_nothing_but_its_own(gateway: Gateway, path: str) -> None:
    headers = get(gateway, path).headers
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert {rule for rule, value in policy.items() if value == "'self'"} == {
        *("script-src", "style-src", "img-src", "connect-src")
    }
    assert set(policy.values()) == {"'none'", "'self'"}
    assert policy["frame-ancestors"] == "'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/page/", "/page/none.js", "/page/../nginx.conf", "/index"])
def test_nothing_else_is_there(gateway: Gateway, path: str) -> None:
    assert get(gateway, path).status_code in (401, 404)
    answer = get(gateway, path, **gateway.authorization)
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "not_found"


def test_it_only_answers_questions(gateway: Gateway) -> None:
    answer = requests.post(gateway.url, json={}, timeout=30)
    assert answer.status_code == 405
    assert error_of(answer)["code"] == "method_not_allowed"
