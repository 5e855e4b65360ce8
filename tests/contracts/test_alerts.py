"""Every alert can be understood, is tested both ways, and asks for metrics that exist."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from heartcode.exporter import readings
from heartcode.telemetry import metrics
from heartcode_models.planner.cards import known_cards, make_card
from heartcode_models.planner.vram import usable
from prometheus_client import Counter, Gauge, Histogram

from tests.contracts.test_roles import ROOT

FILES = ROOT / "roles/prometheus/files"
SEVERITIES = {"critical", "warning"}
#: What Prometheus itself, the node exporter, and prometheus_client of its process tell.
FOREIGN = re.compile(r"up|ALERTS|node_\w+|process_start_time_seconds")


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FILES / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


#: An alert has a rule for each severity.
RULES = rules("heartcode.rules.yml")
ALERTS = list(dict.fromkeys(rule["alert"] for rule in RULES))
RECORDED = [rule["record"] for rule in rules("heartcode.recording.yml")]


def cases(alert: str) -> Iterator[bool]:
    """Whether an alert is expected, at each moment that is tested for it."""
    for test in yaml.safe_load((ROOT / "tests/lint/alerts.yml").read_text())["tests"]:
        for case in test["promql_expr_test"]:
            if f'alertname="{alert}", alertstate="firing"' in case["expr"]:
                yield bool(case["exp_samples"])


def names_in(expression: str) -> set[str]:
    """The metrics that an expression asks for."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', " ", expression)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    words = re.findall(r"(?<![\w:])[a-zA-Z_:][\w:]*\b(?!\s*\()", bare)
    return {word for word in words if word not in {"and", "or", "unless", "offset", "bool"}}


def told() -> set[str]:
    """Every series that rigs and gateways tell, by name."""
    names = {reading.name for reading in readings.READINGS + readings.MEASURED}
    for metric in vars(metrics).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            for family in metric.describe():
                ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}
                names |= {family.name + end for end in ends.get(family.type, [""])}
    return names


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r['alert']}-{r['labels']['severity']}")
def test_an_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    alert = rule["alert"]
    assert alert.startswith("HeartCode")
    assert rule["labels"]["severity"] in SEVERITIES
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{alert.lower()}"
    # The anchor of a heading is the heading in lower case.
    assert f"\n## {alert}\n" in (ROOT / "docs/runbooks.md").read_text()


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_is_tested_while_it_fires_and_while_it_just_does_not(alert: str) -> None:
    assert set(cases(alert)) == {True, False}


@pytest.mark.parametrize("name", known_cards())
@pytest.mark.parametrize("kept", [0, 0.006, 0.025, 0.05])
def test_a_card_rings_where_it_takes_more_than_can_be_planned_for(name: str, kept: float) -> None:
    """`kept` is the share that the driver keeps: it counts as used and in the total."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "HeartCodeVramFull")
    threshold = float(rule["expr"].split(">")[1])
    card = make_card(name)
    assert card
    total = card.vram / (1 - kept)
    most = total - card.vram + usable(card.vram)
    assert most / total <= threshold < (most + total / 1000) / total


def test_the_status_page_marks_memory_where_the_alert_rings() -> None:
    (rule,) = (rule for rule in RULES if rule["alert"] == "HeartCodeVramFull")
    page = (ROOT / "roles/gateway/files/status/status/view.js").read_text()
    assert f"card.fullest >{rule['expr'].split('>')[1]})" in page


def test_there_is_no_runbook_without_an_alert() -> None:
    headings = re.findall(r"^## (.+)$", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert headings == ALERTS


def test_an_alert_with_several_rules_has_one_for_each_severity() -> None:
    kinds = [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    assert len(kinds) == len(set(kinds))


def test_what_gateways_measure_is_written_as_it_is_documented() -> None:
    scripts = (
        "systemd/libexec/heartcode-shown-certificate",
        "app/heartcode_models/files/measure.py",
    )
    written = "".join((ROOT / script).read_text() for script in scripts)
    for reading in readings.MEASURED:
        assert re.search(rf'\b{reading.name}\b\W+"{re.escape(reading.text)}"', written), reading


@pytest.mark.parametrize("file", ["heartcode.rules.yml", "heartcode.recording.yml"])
def test_rules_ask_for_what_is_told_or_recorded(file: str) -> None:
    known = told() | set(RECORDED)
    for rule in rules(file):
        unknown = {name for name in names_in(rule["expr"]) - known if not FOREIGN.fullmatch(name)}
        assert unknown == set(), rule


def test_names_are_found_in_expressions() -> None:
    assert names_in('sum by (rig) (rate(a_total{b="c d"}[5m])) / on (x) (rig:e:f > 0) or g') == {
        "a_total",
        "rig:e:f",
        "g",
    }


def test_recording_rules_are_named_by_level_metric_and_operation() -> None:
    assert [r for r in RECORDED if not re.fullmatch(r"(fleet|rig|backend):\w+:\w+", r)] == []
