"""Dashboards, panels, queries and variables, and the JSON that Grafana reads (schema version 39).

Grafana lays panels out on a grid of 24 columns, and one below the other on a phone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_GREEN, _ORANGE, _RED = "green", "orange", "red"


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label.

    `every` is the expression that takes them all; ".+" leaves out what has no such label.
    """

    name: str
    label: str
    metric: str
    multi: bool = True
    every: str = ".+"

    def as_json(self) -> dict[str, Any]:
        """Return it as Grafana wants it, asked for anew when the time range changes."""
        query = f"label_values({self.metric}, {self.name})"
        made: dict[str, Any] = {
            "name": self.name,
            "label": self.label,
            "type": "query",
            "datasource": DATASOURCE,
            "definition": query,
            "query": {"query": query, "refId": "StandardVariableQuery"},
            "refresh": 2,
            "sort": 7,  # naturally, so that rig10 comes behind rig9
            "multi": self.multi,
            "includeAll": self.multi,
        }
        if self.multi:
            made |= {"allValue": self.every, "current": {"text": "All", "value": "$__all"}}
        return made


@dataclass(frozen=True)
class Query:
    """One query of a panel; `legend` in Grafana's form, "" for a single value."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel.

    Attributes:
        kind: Grafana's name: stat, timeseries, table or state-timeline.
        unit: Grafana's name of the unit.
        empty_until: the fault without which it shows nothing, where that is as it should be.
        thresholds: where it turns orange and red.
        link: a link for each value or row, as (title, URL).
        columns: of a table: titles by label, or by the query's letter.
        units: of a table: units by column title.
    """

    title: str
    description: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    empty_until: str = ""
    thresholds: tuple[float, float] | None = None
    link: tuple[str, str] | None = None
    columns: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    maximum: float | None = None

    def as_json(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return it as Grafana wants it, at its place."""
        empty = f" Empty until {self.empty_until}." if self.empty_until else ""
        made: dict[str, Any] = {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description + empty,
            "datasource": DATASOURCE,
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": list(self._targets()),
            "fieldConfig": {"defaults": self._defaults(), "overrides": list(self._overrides())},
            "options": _OPTIONS[self.kind],
        }
        if self.kind == "table":
            made["transformations"] = self._transformations()
        return made

    def _targets(self) -> Iterator[dict[str, Any]]:
        at_once = self.kind in ("stat", "table")
        for letter, query in zip("ABCDEFGHIJKL", self.queries, strict=False):
            yield {
                "refId": letter,
                "datasource": DATASOURCE,
                "expr": query.expr,
                "legendFormat": query.legend or "__auto",
                "instant": at_once,
                "range": not at_once,
                "format": "table" if self.kind == "table" else "time_series",
            }

    def _defaults(self) -> dict[str, Any]:
        made: dict[str, Any] = {"unit": self.unit, "noValue": "none"}
        if self.kind == "timeseries":
            made["custom"] = {"fillOpacity": 10, "showPoints": "never", "spanNulls": False}
            made["min"] = 0
        if self.maximum is not None:
            made["max"] = self.maximum
        if self.kind == "state-timeline":
            made["mappings"] = [_mapping(0, "gone", _RED), _mapping(1, "up", _GREEN)]
        if self.thresholds:
            made["thresholds"] = _steps(self.thresholds)
            made["color"] = {"mode": "thresholds"}
        if self.link:
            title, url = self.link
            made["links"] = [{"title": title, "url": url}]
        return made

    def _overrides(self) -> Iterator[dict[str, Any]]:
        for column, unit in self.units.items():
            yield {
                "matcher": {"id": "byName", "options": column},
                "properties": [{"id": "unit", "value": unit}],
            }

    def _transformations(self) -> list[dict[str, Any]]:
        shown = {name if len(name) > 1 else f"Value #{name}": t for name, t in self.columns.items()}
        return [
            {"id": "merge", "options": {}},
            {"id": "filterFieldsByName", "options": {"include": {"names": list(shown)}}},
            {
                "id": "organize",
                "options": {
                    "indexByName": {name: place for place, name in enumerate(shown)},
                    "renameByName": shown,
                },
            },
        ]


def _mapping(value: int, text: str, color: str) -> dict[str, Any]:
    return {"type": "value", "options": {str(value): {"text": text, "color": color}}}


def _steps(thresholds: tuple[float, float]) -> dict[str, Any]:
    """Return the colours: green, orange, red; the other way round where little is bad."""
    first, second = thresholds
    falls = first > second
    low, high = (_RED, _GREEN) if falls else (_GREEN, _RED)
    lower, upper = min(thresholds), max(thresholds)
    return {
        "mode": "absolute",
        "steps": [
            {"color": low, "value": None},
            {"color": _ORANGE, "value": lower},
            {"color": high, "value": upper},
        ],
    }


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {
        "colorMode": "background",
        "graphMode": "none",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    },
    "table": {"cellHeight": "sm", "showHeader": True},
    "state-timeline": {
        "mergeValues": True,
        "showValue": "auto",
        "rowHeight": 0.8,
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": False},
    },
}


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A dashboard; its uid stays the same for ever, since links and bookmarks hold it."""

    uid: str
    title: str
    description: str
    panels: Sequence[Panel]
    variables: Sequence[Variable] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what Grafana provisions."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["heartcode"],
            "schemaVersion": 39,
            "version": 1,
            # What is provisioned from files is changed in the files.
            "editable": False,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-3h", "to": "now"},
            "timezone": "browser",
            "templating": {"list": [_DATASOURCE_VARIABLE, *(v.as_json() for v in self.variables)]},
            "links": [
                {
                    "title": "HeartCode",
                    "type": "dashboards",
                    "tags": ["heartcode"],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                    "targetBlank": False,
                    "icon": "external link",
                    "tooltip": "",
                    "url": "",
                }
            ],
            "panels": list(self._placed()),
        }

    def _placed(self) -> Iterator[dict[str, Any]]:
        x = y = height = 0
        for number, panel in enumerate(self.panels, 1):
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            yield panel.as_json(number, x, y)
            x += panel.width
            height = max(height, panel.height)


_DATASOURCE_VARIABLE: dict[str, Any] = {
    "name": "datasource",
    "label": "Data source",
    "type": "datasource",
    "query": "prometheus",
    "current": {"text": "Prometheus", "value": "heartcode-prometheus"},
    "multi": False,
    "includeAll": False,
}
