"""The dashboards keep the rules of Grafana's dashboard linter, and agree with the metrics.

https://github.com/grafana/dashboard-linter, rule by rule. Its rules about `job` and `instance` are
left out: here a rig is called by its label `rig` and a host by `host`, whatever scrapes it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.test_alerts import FOREIGN, RECORDED, names_in, told
from tools import dashboards
from tools.grafana.pages import DASHBOARDS

FILES = sorted(dashboards.OUT.glob("*.json"))
#: Of Grafana's units those that are in use here; a new one has to exist there.
UNITS = {
    *("short", "s", "watt", "celsius", "percentunit", "hertz", "bytes", "Bps"),
    *("reqps", "cps", "pps"),
}
#: Functions that need a range; a rate over less than four scrapes has holes.
RANGE = re.compile(r"\b(\w+)\([^][]*\[([^]]+)\]")


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    path: Path = request.param
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def targets(board: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target


def test_the_files_are_up_to_date() -> None:
    wanted = dashboards.files()
    assert set(FILES) == set(wanted)
    stale = [path.name for path, text in wanted.items() if path.read_text() != text]
    assert stale == [], "run tools/dashboards.py"


def test_addresses_stay_the_same() -> None:
    """Bookmarks, links and the home page hold them."""
    assert {board.uid: board.title for board in DASHBOARDS} == {
        "heartcode-fleet": "HeartCode / Fleet",
        "heartcode-rig": "HeartCode / Rig and cards",
        "heartcode-requests": "HeartCode / Requests",
        "heartcode-hosts": "HeartCode / Hosts",
    }


def test_template_datasource_rule(board: dict[str, Any]) -> None:
    first = board["templating"]["list"][0]
    assert (first["type"], first["name"]) == ("datasource", "datasource")
    assert (first["query"], first["label"]) == ("prometheus", "Data source")


def test_template_label_promql_and_reload_rules(board: dict[str, Any]) -> None:
    for variable in board["templating"]["list"][1:]:
        assert variable["type"] == "query"
        assert re.fullmatch(r"label_values\(\w+(\{[^}]*\})?, \w+\)", variable["query"]["query"]), (
            variable["name"]
        )
        assert variable["refresh"] == 2
        assert variable["datasource"]["uid"] == "${datasource}"


def test_panel_datasource_rule(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panel_title_description_and_no_targets_rules(board: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["targets"], panel["title"]


def test_panel_units_rule(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        units = {panel["fieldConfig"]["defaults"]["unit"]}
        for override in panel["fieldConfig"]["overrides"]:
            units |= {p["value"] for p in override["properties"] if p["id"] == "unit"}
        assert units <= UNITS, panel["title"]


def test_target_rate_interval_rule(board: dict[str, Any]) -> None:
    for title, target in targets(board):
        for function, span in RANGE.findall(target["expr"]):
            assert span == "$__rate_interval", (title, function)


def test_target_counter_agg_rule(board: dict[str, Any]) -> None:
    """Counters are shown as rates; those that stand still for days, as they are."""
    for panel in board["panels"]:
        for target in panel["targets"]:
            for name in re.findall(r"\w+_total\b", target["expr"]):
                rated = re.search(rf"(rate|increase)\({name}\b", target["expr"])
                assert rated or "since" in panel["description"], panel["title"]


def test_uneditable_rule(board: dict[str, Any]) -> None:
    assert board["editable"] is False


def test_queries_ask_for_what_is_told_or_recorded(board: dict[str, Any]) -> None:
    known = told() | set(RECORDED)
    for title, target in targets(board):
        asked = names_in(target["expr"].replace("$__rate_interval", "5m"))
        unknown = {name for name in asked - known if not FOREIGN.fullmatch(name)}
        assert unknown == set(), title


def test_helpers_are_up_and_down_as_rigs_are(board: dict[str, Any]) -> None:
    """Their cards are counted with a rig's."""
    for title, target in targets(board):
        for jobs in re.findall(r'up\{job=~?"([^"]+)"', target["expr"]):
            assert ("helper" in jobs) == ("heartcode" in jobs), title


def test_variables_that_are_used_are_there_and_the_other_way_round(board: dict[str, Any]) -> None:
    text = json.dumps([target["expr"] for _, target in targets(board)])
    text += json.dumps([v.get("query") for v in board["templating"]["list"]])
    used = set(re.findall(r"\$(\w+)", text)) - {"__rate_interval"}
    assert used == {v["name"] for v in board["templating"]["list"]} - {"datasource"}


def test_panels_lie_beside_each_other_and_within_the_grid(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_links_lead_to_dashboards_that_exist(board: dict[str, Any]) -> None:
    uids = {page.uid for page in DASHBOARDS}
    assert set(re.findall(r"/d/([\w-]+)", json.dumps(board))) <= uids
    (link,) = board["links"]
    assert link["tags"] == board["tags"] == ["heartcode"]


def test_a_table_shows_its_columns(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        if panel["type"] != "table":
            continue
        organized = panel["transformations"][-1]["options"]["renameByName"]
        letters = {name[7:] for name in organized if name.startswith("Value #")}
        assert letters <= {target["refId"] for target in panel["targets"]}
        # By "merge", rows of the queries come together: all must have the same labels or fewer.
        labels = {name for name in organized if not name.startswith("Value #")}
        grouped = re.search(r"by \(([^)]*)\)", panel["targets"][0]["expr"])
        assert grouped
        assert labels <= set(grouped[1].split(", ")), panel["title"]
        for override in panel["fieldConfig"]["overrides"]:
            assert override["matcher"]["options"] in organized.values()
