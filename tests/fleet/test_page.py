"""The page that the gateway shows to people; `make test-pages` looks at it in a browser."""

import re

import pytest
import requests

from tests.fleet.harness import Fleet


def get(fleet: Fleet, path: str) -> requests.Response:
    return requests.get(fleet.url + path, timeout=10)


def test_it_says_the_address_by_which_it_was_asked(fleet: Fleet) -> None:
    page = get(fleet, "/")
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"{fleet.url}/v1</code>" in page.text
    assert f"curl -N {fleet.url}/v1/chat/completions" in page.text


def test_an_address_with_signs_of_html_is_only_text(fleet: Fleet) -> None:
    page = requests.get(fleet.url, headers={"Host": 'x"><script>'}, timeout=10)
    assert "<script>" not in page.text


def test_every_file_that_it_names_is_there_and_of_its_kind(fleet: Fleet) -> None:
    named = set(re.findall(r'(?:href|src)="(/page/[^"]+)"', get(fleet, "/").text))
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert {name.rsplit(".")[-1] for name in named} == set(kinds)
    for name in named:
        file = get(fleet, name)
        assert file.status_code == 200, name
        assert file.headers["Content-Type"].startswith(kinds[name.rsplit(".")[-1]]), name


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_it_may_run_and_reach_nothing_but_its_own(fleet: Fleet, path: str) -> None:
    headers = get(fleet, path).headers
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
def test_nothing_else_is_there(fleet: Fleet, path: str) -> None:
    assert get(fleet, path).status_code in (401, 404)
    answer = requests.get(fleet.url + path, headers=fleet.authorization, timeout=10)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_it_only_answers_questions(fleet: Fleet) -> None:
    answer = requests.post(fleet.url, json={}, timeout=10)
    assert answer.status_code == 405
    assert answer.json()["error"]["code"] == "method_not_allowed"
