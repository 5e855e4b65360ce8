"""Filters for what Prometheus reads: its targets and its rules, as files.

hosts | scrape_targets(groups, here)            targets by job, as file_sd has them
targets | target_files(directory)               a file for each job, for host_files
names | rule_files(texts, directory, runbooks)  a file for each set of rules, for host_files
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible.plugins.filter.core import to_nice_json

#: Where the rules' own files say that the runbooks are.
_RUNBOOKS = "runbook_url: docs/runbooks.md"


def scrape_targets(
    hosts: Iterable[Mapping[str, Any]], groups: Mapping[str, Sequence[str]], here: str
) -> dict[str, list[dict[str, Any]]]:
    """Return the targets of the jobs heartcode, helper, nginx, node and relay.

    `hosts` are mappings with name, url_host, app_metrics_port, nginx_exporter_port,
    node_exporter_port, gateway_relay_port and gateway_relay_enabled. A rig is known by the label
    `rig` where it tells of itself, and every host by `host` where its kernel, its nginx or its
    relay does. Only the gateway `here` can reach its relay. A helper tells of its cards as a rig
    does, and has no proxy.
    """
    # Those without targets as well: Prometheus forgets what a target told when that is taken away,
    # and not when its job is.
    jobs = ("heartcode", "helper", "nginx", "node", "relay")
    found: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}

    def add(job: str, host: Mapping[str, Any], port: str, label: str) -> None:
        target = f"{host['url_host']}:{host[port]}"
        found[job].append({"targets": [target], "labels": {label: host["name"]}})

    for host in hosts:
        if host["name"] in groups.get("rigs", ()):
            add("heartcode", host, "app_metrics_port", "rig")
        if host["name"] in groups.get("helpers", ()):
            add("helper", host, "app_metrics_port", "rig")
        if host["name"] in groups.get("gateways", ()):
            add("nginx", host, "nginx_exporter_port", "host")
            if host["name"] == here and host["gateway_relay_enabled"]:
                add("relay", {**host, "url_host": "127.0.0.1"}, "gateway_relay_port", "host")
        add("node", host, "node_exporter_port", "host")
    return found


def target_files(targets: Mapping[str, Any], directory: str) -> list[dict[str, str]]:
    """Return the directory and its files."""
    return [
        {"path": directory, "state": "directory"},
        *(
            {"path": f"{directory}/{job}.json", "content": f"{to_nice_json(of_job)}\n"}
            for job, of_job in targets.items()
        ),
    ]


def rule_files(
    names: Sequence[str], texts: Sequence[str], directory: str, runbooks_url: str
) -> list[dict[str, str]]:
    """Return the files of rules, each with its text and what checks it.

    The runbooks' place is the one thing in them that differs between fleets.
    """
    return [
        {
            "path": f"{directory}/{name}",
            "content": text.replace(_RUNBOOKS, f"runbook_url: {runbooks_url}"),
            "validate": "promtool check rules %s",
        }
        for name, text in zip(names, texts, strict=True)
    ]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {
            "scrape_targets": scrape_targets,
            "target_files": target_files,
            "rule_files": rule_files,
        }
