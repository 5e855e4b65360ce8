"""The cards, the alerts and the dashboards' queries, as Prometheus on the gateway has them."""

import base64
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.counting import chat, events
from tests.fleet.harness import Fleet, comes_true, wait_for
from tests.fleet.test_cards import uuids_of_inventory
from tools.grafana.pages import DASHBOARDS

#: Asks Prometheus many things in one call: prints how many series each has, -1 for a wrong one.
ASK = """
import base64, json, sys, urllib.error, urllib.parse, urllib.request as r
found = []
for query in json.loads(base64.b64decode(sys.argv[1])):
    url = "http://127.0.0.1:9090/api/v1/query?query=" + urllib.parse.quote(query)
    try:
        found.append(len(json.load(r.urlopen(url))["data"]["result"]))
    except urllib.error.HTTPError:
        found.append(-1)
print(json.dumps(found))
"""
#: Listens where inventory/virtual has Alertmanager post to, and prints the names of alerts.
LISTEN = """
import http.server, json
class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        for alert in said["alerts"]:
            labels = alert["labels"]
            print(alert["status"], labels["alertname"], labels.get("xid"), flush=True)
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 4099), Hook).serve_forever()
"""


def value(fleet: Fleet, query: str) -> float | None:
    found = fleet.metrics(query)
    return float(found[0]["value"][1]) if found else None


def test_every_card_of_the_inventory_is_told_with_its_backend(fleet: Fleet) -> None:
    def told(rig: str) -> list[tuple[str, str]]:
        return [
            (series["metric"]["uuid"], series["metric"]["backend"])
            for series in fleet.metrics(f'gpu_up{{rig="{rig}"}} == 1')
        ]

    for rig in fleet.rigs:
        expected = [
            (uuid, f"127.0.0.1:{8081 + number}")
            for number, uuid in enumerate(uuids_of_inventory(rig))
        ]
        wait_for(lambda: sorted(told(rig)) == sorted(expected), f"the cards of {rig} are up")  # noqa: B023
    names = {series["metric"]["name"] for series in fleet.metrics('gpu_info{rig="rig2"}')}
    assert names == {"NVIDIA P104-100", "NVIDIA P106-100"}


def test_a_call_that_hangs_holds_up_no_scrape_and_ends(fleet: Fleet) -> None:
    card = 'rig="rig1",gpu="0"'
    fleet.ssh("rig1", "simulated-cards hang 0 power_draw_w")
    try:
        wait_for(lambda: value(fleet, f"gpu_up{{{card}}}") == 0, "the card does not count as up")
        assert value(fleet, f"gpu_temperature_celsius{{{card}}}") == 35
        assert (value(fleet, f"gpu_reading_age_seconds{{{card}}}") or 0) > 3
        assert value(fleet, f'gpu_read_errors_total{{{card},reason="hang"}}')
        assert value(fleet, 'up{job="heartcode",rig="rig1"}') == 1
        assert value(fleet, 'gpu_up{rig="rig1",gpu="1"}') == 1
        took = value(fleet, 'scrape_duration_seconds{job="heartcode",rig="rig1"}')
        assert took is not None
        assert took < 3
    finally:
        fleet.ssh("rig1", "simulated-cards set 0 power_draw_w=60")
    wait_for(lambda: value(fleet, f"gpu_up{{{card}}}") == 1, "it is up again")


@pytest.fixture
def webhook(fleet: Fleet) -> Iterator[str]:
    """Listen where alerts are posted to; the name of the unit whose journal has them."""
    unit = "webhook-of-a-test"
    code = base64.b64encode(LISTEN.encode()).decode()
    run = f"import base64;exec(base64.b64decode('{code}'))"
    fleet.ssh("gateway", f'systemd-run --quiet --collect --unit={unit} python3 -u -c "{run}"')
    wait_for(lambda: fleet.ssh("gateway", "ss -Hlnt 'sport = :4099'"), "it listens")
    yield unit
    fleet.ssh("gateway", f"systemctl stop {unit}")


def test_an_alert_reaches_the_webhook(fleet: Fleet, webhook: str) -> None:
    # No real one: others fire already, and one is told only once.
    xid = 1000 + time.time_ns() % 10**6
    fleet.ssh("rig2", f"simulated-cards xid 0 {xid}")
    wait_for(
        lambda: f"firing HeartCodeXid {xid}" in fleet.journal("gateway", f"--unit={webhook}"),
        "Alertmanager has told of the Xid",
        timeout_s=90,
    )


@pytest.mark.parametrize("port", [9090, 9093])
def test_prometheus_and_alertmanager_are_for_the_gateway_alone(fleet: Fleet, port: int) -> None:
    listening = fleet.ssh("gateway", f"ss -Hlnt 'sport = :{port}'")
    assert {line.split()[3] for line in listening.splitlines()} == {f"127.0.0.1:{port}"}
    # Of a cluster of Alertmanagers there is nothing.
    assert fleet.ssh("gateway", "ss -Hlntu 'sport = :9094'") == ""


def filled(expr: str) -> str:
    """A panel's query with its variables filled in as Grafana does."""
    expr = expr.replace("$__rate_interval", "1m").replace('"$rig"', '"rig1"')
    return re.sub(r'=~?"\$\w+"', '=~".+"', expr)


def series_of(fleet: Fleet, queries: list[str]) -> list[int]:
    packed = base64.b64encode(json.dumps(queries).encode()).decode()
    code = base64.b64encode(ASK.encode()).decode()
    run = f"import base64;exec(base64.b64decode('{code}'))"
    found: list[int] = json.loads(fleet.ssh("gateway", f'python3 -c "{run}" {packed}'))
    return found


def queries(*, that_need_a_fault: bool) -> dict[str, str]:
    """Every query of the dashboards by where it stands."""
    return {
        f"{board.title}: {panel.title}: {query.expr}": filled(query.expr)
        for board in DASHBOARDS
        for panel in board.panels
        for query in panel.queries
        if bool(panel.empty_until) == that_need_a_fault
    }


def without_data(fleet: Fleet, asked: dict[str, str]) -> dict[str, int]:
    found = series_of(fleet, list(asked.values()))
    return {where: n for where, n in zip(asked, found, strict=True) if n <= 0}


def traffic(fleet: Fleet) -> None:
    """Answers of all kinds from all rigs, among them prompts that are cached."""
    question: dict[str, Any] = {"messages": [{"role": "user", "content": " 1" * 100}]}

    def ask(number: int) -> None:
        if number % 2:
            assert chat(fleet, max_tokens=20, **question).ok
        else:
            assert list(events(chat(fleet, max_tokens=20, stream=True, **question)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(16)))
    for rig in fleet.rigs:
        fleet.ssh(
            rig,
            "curl -fsS -o /dev/null http://127.0.0.1:8080/v1/completions"
            ' -H "Content-Type: application/json" -d \'{"prompt": " 1 2 3", "max_tokens": 8}\'',
        )


def break_things(fleet: Fleet) -> None:
    """What fills the panels that are empty while all is well."""
    # A client of this rig, whose name the gateway would send, leaves.
    name = {"X-HeartCode-Client": "anna"}
    url = f"http://{fleet.addresses['rig1']}:8080"
    with chat(url, max_tokens=3500, stream=True, headers=name) as response:
        next(events(response))
    fleet.ssh("rig1", "simulated-cards xid 0 31")
    fleet.ssh("rig1", "simulated-cards set 0 clock_event_reasons=64")
    ask = (
        "curl -fsS -N -o /dev/null http://127.0.0.1:8080/v1/completions"
        ' -H "Content-Type: application/json"'
    )
    # Longer than it takes to start them all, so that they need every slot.
    whole = ask + ' -d \'{"prompt": " 1", "max_tokens": 1000}\''
    stream = ask + ' -d \'{"prompt": " 1", "max_tokens": 2000, "stream": true}\''
    unit = "heartcode-llama@0"
    fleet.ssh("rig1", f"systemctl reset-failed {unit}")
    kill = f"systemctl kill --signal=KILL {unit}"
    # It dies while it is idle, and some of the requests for all slots find nobody there.
    fleet.ssh("rig1", f"{kill}; for i in 1 2 3 4; do {whole} & done; wait")
    wait_for(lambda: fleet.state("rig1", unit) == "active", "it is back")
    wait_for(lambda: value(fleet, 'min(backend_up{rig="rig1"})') == 1, "the proxy knows")
    # It dies while it streams.
    fleet.ssh(
        "rig1",
        f"for i in 1 2 3 4; do {stream} & done; until curl -s 127.0.0.1:8081/slots"
        f" | grep -q 'is_processing\":true'; do sleep 0.02; done; {kill}; wait",
    )


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_every_query_of_the_dashboards_has_data_or_says_when(fleet: Fleet) -> None:
    usual, unusual = queries(that_need_a_fault=False), queries(that_need_a_fault=True)
    wrong = [where for where, n in without_data(fleet, usual | unusual).items() if n < 0]
    assert wrong == []

    def all_have_data() -> bool:
        traffic(fleet)
        return not without_data(fleet, usual)

    wait_for(all_have_data, lambda: f"no data: {sorted(without_data(fleet, usual))}", timeout_s=90)

    def faults_fill_the_others() -> bool:
        # Which request meets a fault, and how, is not the same each time.
        break_things(fleet)
        return bool(comes_true(lambda: not without_data(fleet, unusual), timeout_s=30))

    try:
        wait_for(
            faults_fill_the_others,
            lambda: f"faults leave empty: {sorted(without_data(fleet, unusual))}",
            timeout_s=90,
        )
    finally:
        fleet.ssh("rig1", "simulated-cards set 0 clock_event_reasons=1")
        fleet.ssh("rig1", "systemctl start heartcode-llama@0")
