"""What the page /status is made of, and who may read it; tests/pages looks at it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.contracts.test_status_page import queries
from tests.fleet.harness import Fleet, wait_for

NAMES = [*queries(), "alerts"]


def get(fleet: Fleet, path: str, **headers: str) -> requests.Response:
    return requests.get(fleet.url + path, headers=headers, timeout=30)


def data(fleet: Fleet, name: str) -> Any:
    """What Prometheus answers to one of the page's questions."""
    answer = get(fleet, f"/status/data/{name}", **fleet.authorization)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    told = answer.json()
    assert told["status"] == "success"
    return told["data"]


def code(answer: requests.Response) -> str:
    found: str = answer.json()["error"]["code"]
    return found


@pytest.mark.parametrize("path", ["/status", "/status/"])
def test_the_page_itself_is_open_and_reaches_nothing_but_its_own(fleet: Fleet, path: str) -> None:
    page = get(fleet, path)
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
        file = get(fleet, name)
        assert file.status_code == 200, name
        assert file.headers["Content-Type"].startswith(kinds[name.rsplit(".")[-1]]), name


@pytest.mark.parametrize("path", ["/status/none.js", "/status.html", "/status/data/", "/statusx"])
def test_nothing_else_is_there(fleet: Fleet, path: str) -> None:
    assert get(fleet, path).status_code in (401, 404)
    answer = get(fleet, path, **fleet.authorization)
    assert answer.status_code == 404
    assert code(answer) == "not_found"


@pytest.mark.parametrize("name", NAMES)
def test_values_are_for_who_has_a_key(fleet: Fleet, name: str) -> None:
    path = f"/status/data/{name}"
    for headers in ({}, {"Authorization": "Bearer not-the-key-of-anybody"}):
        refused = get(fleet, path, **headers)
        assert refused.status_code == 401
        assert code(refused) == "invalid_api_key"
    answer = get(fleet, path, **{"X-Api-Key": fleet.key})
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Request-Id"]


def test_they_tell_of_every_rig_and_card(fleet: Fleet) -> None:
    def backends(metric: str) -> set[tuple[str, str]]:
        series = (sample["metric"] for sample in data(fleet, "now")["result"])
        return {(x["rig"], x["backend"]) for x in series if x["__name__"] == metric}

    expected = {(rig, f"127.0.0.1:{8081 + n}") for rig, n in fleet.backends()}
    for metric in ("gpu_up", "backend_slots", "backend_info", "llama_requests_processing"):
        wait_for(lambda: backends(metric) == expected, f"{metric} of every card is told")  # noqa: B023
    served = [x["metric"] for x in data(fleet, "now")["result"]]
    assert {x["model"] for x in served if x["__name__"] == "backend_info"} == {"counting"}
    for sample in data(fleet, "scraped")["result"]:
        at, scraped = sample["value"][0], float(sample["value"][1])
        assert at - scraped < 60
    wait_for(
        lambda: {x["metric"].get("rig") for x in data(fleet, "hour")["result"]} == set(fleet.rigs),
        "the last hour of every rig is told",
    )
    assert data(fleet, "known")["result"] == []


def test_alerts_come_with_their_texts(fleet: Fleet) -> None:
    fleet.ssh("rig1", "simulated-cards xid 0 61")

    def xids() -> list[dict[str, Any]]:
        alerts = data(fleet, "alerts")["alerts"]
        return [alert for alert in alerts if alert["labels"].get("xid") == "61"]

    (alert,) = wait_for(xids, "the alert fires")
    assert alert["state"] == "firing"
    assert alert["annotations"]["summary"] == "rig1: card 0 has reported Xid 61"
    assert alert["annotations"]["runbook_url"].endswith("#heartcodexid")


@pytest.mark.parametrize(
    "arguments", ["?query=up", "?query=up&query=up", "?time=0", "?a=%26query%3Dup", "?timeout=1h"]
)
def test_no_client_asks_a_question_of_its_own(fleet: Fleet, arguments: str) -> None:
    answer = get(fleet, f"/status/data/scraped{arguments}", **fleet.authorization).json()
    assert [set(sample["metric"]) for sample in answer["data"]["result"]] == [{"rig"}] * len(
        fleet.rigs
    )


@pytest.mark.parametrize(
    "path",
    [
        *("/status/data/up", "/status/data/now/", "/status/data/now%3Fquery=up"),
        *("/status/data/../data/query", "/status/data/%2e%2e/api/v1/query?query=up"),
        *("/api/v1/query?query=up", "/api/v1/status/config", "/status/api/v1/query?query=up"),
    ],
)
def test_nothing_else_of_prometheus_is_reached(fleet: Fleet, path: str) -> None:
    asked = requests.Request("GET", fleet.url, headers=fleet.authorization).prepare()
    asked.url = fleet.url + path  # as it stands, with its dots
    answer = requests.Session().send(asked, timeout=30)
    assert answer.status_code == 404
    assert code(answer) == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_is_only_read(fleet: Fleet, method: str) -> None:
    answer = requests.request(
        method,
        f"{fleet.url}/status/data/now",
        headers=fleet.authorization,
        data={"query": "up"},
        timeout=30,
    )
    assert answer.status_code == 405
    assert code(answer) == "method_not_allowed"


def test_nothing_of_a_client_reaches_prometheus(fleet: Fleet) -> None:
    """It would answer an Origin with headers of CORS."""
    answer = get(fleet, "/status/data/scraped", **fleet.authorization, Origin="https://example.org")
    assert answer.status_code == 200
    assert [name for name in answer.headers if name.lower().startswith("access-control")] == []


def test_it_says_when_prometheus_does_not_answer(fleet: Fleet) -> None:
    fleet.ssh("gateway", "systemctl stop prometheus")
    try:
        answer = get(fleet, "/status/data/now", **fleet.authorization)
        assert answer.status_code == 502
        assert code(answer) == "prometheus_unavailable"
        assert get(fleet, "/status/data/now").status_code == 401
    finally:
        fleet.ssh("gateway", "systemctl start prometheus")
    wait_for(
        lambda: get(fleet, "/status/data/now", **fleet.authorization).ok, "it answers again at once"
    )


@pytest.fixture(scope="module")
def _restored(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    fleet.set_up_gateway(tmp_path_factory.mktemp("status"))


def here(fleet: Fleet) -> str:
    """This machine's address, as the gateway sees it."""
    address: str = json.loads((fleet.directory / "fleet.json").read_text())["host_address"]
    return address


@pytest.mark.usefixtures("_restored")
def test_a_network_may_read_it_without_a_key(fleet: Fleet, tmp_path: Path) -> None:
    fleet.set_up_gateway(tmp_path, gateway_status_allow=[f"{here(fleet)}/32"])
    wait_for(lambda: get(fleet, "/status/data/now").ok, "nginx knows of it")
    assert get(fleet, "/status/data/none").status_code == 404
    assert get(fleet, "/v1/models").status_code == 401
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' {fleet.url}/status/data/now"
    assert fleet.ssh("rig1", ask) == "401"
    assert fleet.ssh("rig1", f"{ask} -H 'Authorization: Bearer {fleet.key}'") == "200"


@pytest.mark.usefixtures("_restored")
def test_without_keys_the_networks_are_all_who_may(fleet: Fleet, tmp_path: Path) -> None:
    fleet.set_up_gateway(
        tmp_path, gateway_auth="none", gateway_status_allow=[fleet.addresses["rig1"]]
    )
    wait_for(lambda: get(fleet, "/v1/models").ok, "nobody is asked for a key")
    refused = get(fleet, "/status/data/now")
    assert refused.status_code == 403
    assert code(refused) == "forbidden"
    ask = f"curl -s -o /dev/null -w '%{{http_code}}' {fleet.url}/status/data/now"
    assert fleet.ssh("rig1", ask) == "200"


@pytest.mark.usefixtures("_restored")
def test_it_can_be_left_out(fleet: Fleet, tmp_path: Path) -> None:
    assert 'href="/status"' in get(fleet, "/").text
    fleet.set_up_gateway(tmp_path, gateway_status_enabled=False)
    wait_for(lambda: 'href="/status"' not in get(fleet, "/").text, "there is no link to it")
    for path in ("/status", "/status/data/now", "/status/status.js"):
        assert get(fleet, path, **fleet.authorization).status_code == 404
