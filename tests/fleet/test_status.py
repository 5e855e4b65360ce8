"""What the page /status is made of and shows; tests/pages looks at it.

Who may read it, and what is asked of Prometheus, is asked in tests/gateway.
"""

import re
from typing import Any

import pytest
import requests

from tests.fleet.harness import Fleet, wait_for


def data(fleet: Fleet, name: str) -> Any:
    """What Prometheus answers to one of the page's questions."""
    url = f"{fleet.url}/status/data/{name}"
    answer = requests.get(url, headers=fleet.authorization, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("application/json")
    told = answer.json()
    assert told["status"] == "success"
    return told["data"]


@pytest.mark.parametrize("path", ["/", "/status"])
def test_a_page_is_installed_with_its_files(fleet: Fleet, path: str) -> None:
    page = requests.get(fleet.url + path, timeout=30)
    assert page.status_code == 200
    named = re.findall(r'(?:href|src)="(/[a-z]+/[^"]+)"', page.text)
    assert {name.rsplit(".")[-1] for name in named} == {"css", "js", "svg"}
    for name in named:
        assert requests.get(fleet.url + name, timeout=30).status_code == 200, name


def test_they_tell_of_every_rig_and_card(fleet: Fleet) -> None:
    def backends(metric: str) -> set[tuple[str, str]]:
        series = (sample["metric"] for sample in data(fleet, "now")["result"])
        return {(x["rig"], x["backend"]) for x in series if x["__name__"] == metric}

    expected = {(rig, f"127.0.0.1:{8081 + n}") for rig, n in fleet.backends()}
    for metric in ("gpu_up", "backend_slots", "backend_info", "llama_requests_processing"):
        wait_for(lambda: backends(metric) == expected, f"{metric} of every card is told")  # noqa: B023
    served = [x["metric"] for x in data(fleet, "now")["result"]]
    assert {x["model"] for x in served if x["__name__"] == "backend_info"} == {"counting"}
    scrapes = data(fleet, "scraped")["result"]
    assert sorted(sample["metric"]["rig"] for sample in scrapes) == fleet.rigs
    for sample in scrapes:
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
