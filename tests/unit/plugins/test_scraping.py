"""Prometheus' targets and rules as the role writes them."""

import json
from pathlib import Path
from typing import Any

from plugins.filter.scraping import rule_files, scrape_targets, target_files

RULES = Path(__file__).parents[3] / "roles/prometheus/files"


def host(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "url_host": f"{name}.lan",
        "app_metrics_port": 9091,
        "nginx_exporter_port": "9113",
        "node_exporter_port": 9100,
        "gateway_relay_port": 4003,
        "gateway_relay_enabled": True,
    }


def test_every_host_is_asked_for_what_its_groups_run() -> None:
    groups = {"rigs": ["a", "b"], "gateways": ["b", "c"]}
    assert scrape_targets([host("a"), host("b"), host("c")], groups, "b") == {
        "heartcode": [
            {"targets": ["a.lan:9091"], "labels": {"rig": "a"}},
            {"targets": ["b.lan:9091"], "labels": {"rig": "b"}},
        ],
        "helper": [],
        "nginx": [
            {"targets": ["b.lan:9113"], "labels": {"host": "b"}},
            {"targets": ["c.lan:9113"], "labels": {"host": "c"}},
        ],
        "node": [
            {"targets": ["a.lan:9100"], "labels": {"host": "a"}},
            {"targets": ["b.lan:9100"], "labels": {"host": "b"}},
            {"targets": ["c.lan:9100"], "labels": {"host": "c"}},
        ],
        "relay": [{"targets": ["127.0.0.1:4003"], "labels": {"host": "b"}}],
    }


def test_a_helper_tells_of_its_cards_and_is_no_rig() -> None:
    groups = {"rigs": ["a"], "gateways": ["b"], "helpers": ["b", "c"]}
    found = scrape_targets([host("a"), host("b"), host("c")], groups, "b")
    assert found["helper"] == [
        {"targets": ["b.lan:9091"], "labels": {"rig": "b"}},
        {"targets": ["c.lan:9091"], "labels": {"rig": "c"}},
    ]
    assert [one["labels"] for one in found["heartcode"]] == [{"rig": "a"}]
    assert [one["labels"] for one in found["node"]] == [{"host": name} for name in "abc"]


def test_a_job_without_hosts_has_a_file_without_targets() -> None:
    directory, *files = target_files(scrape_targets([], {}, ""), "/etc/x")
    assert directory == {"path": "/etc/x", "state": "directory"}
    assert [file["path"] for file in files] == [
        "/etc/x/heartcode.json",
        "/etc/x/helper.json",
        "/etc/x/nginx.json",
        "/etc/x/node.json",
        "/etc/x/relay.json",
    ]
    assert {file["content"] for file in files} == {"[]\n"}


def test_a_file_of_targets_is_json_that_people_can_read() -> None:
    targets = [{"targets": ["b:1"], "labels": {"rig": "b"}}]
    _, file = target_files({"own": targets}, "/etc/x")
    assert json.loads(file["content"]) == targets
    assert file["content"].startswith('[\n    {\n        "labels"')
    assert file["content"].endswith("]\n")


def test_alerts_lead_to_the_fleet_s_runbooks() -> None:
    name = "heartcode.rules.yml"
    text = (RULES / name).read_text()
    url = "https://git.example.org/runbooks.md"
    (file,) = rule_files([name], [text], "/etc/x", url)
    assert file["path"] == f"/etc/x/{name}"
    assert file["validate"] == "promtool check rules %s"
    assert file["content"].count(f"runbook_url: {url}#") == text.count("runbook_url: ") > 1
    (unchanged,) = rule_files([name], [text], "/etc/x", "docs/runbooks.md")
    assert unchanged["content"] == text
