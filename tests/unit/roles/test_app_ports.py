"""Which ports of a rig and of a helper have to be free, in one run for all hosts."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import pytest

from tests.unit.roles.playing import play_on_all

#: By host, the port that another program has, and a part of what is said; "" where it passes.
TAKEN = {
    "rig-proxy": (8080, "rig-proxy: port 8080 (app_port) is in use by users:"),
    "rig-exporter": (9091, "rig-exporter: port 9091 (app_metrics_port) is in use by users:"),
    "helper-proxy": (8080, ""),
    "helper-exporter": (9091, "helper-exporter: port 9091 (app_metrics_port) is in use by users:"),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    hosts = {}
    for host, (port, _) in TAKEN.items():
        line = f'LISTEN 0 9 *:{port} *:* users:(("x",pid=7,fd=3)) cgroup:/system.slice/x.service'
        answers = {"listeners": {"stdout_lines": [line]}, "sockets": {"stdout_lines": []}}
        hosts[host] = {"__common_host": {"answers": answers}}
    groups = {
        group: {"hosts": {host: known for host, known in hosts.items() if host.startswith(kind)}}
        for group, kind in (("rigs", "rig"), ("helpers", "helper"))
    }
    known = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    role = {"name": "app", "tasks_from": "preflight"}
    play = {"hosts": "all", "gather_facts": False, "tasks": [{"ansible.builtin.import_role": role}]}
    directory = tmp_path_factory.mktemp("ports")
    tasks = play_on_all(directory, {"all": {"children": groups, "vars": known}}, play)
    results = tasks[-1]["hosts"]
    return {
        host: str(results[host]["msg"]) if results[host].get("failed") else "" for host in hosts
    }


@pytest.mark.parametrize("host", TAKEN)
def test_a_port_of_another_program_is_told_where_the_host_needs_it(
    said: Mapping[str, str], host: str
) -> None:
    expected = TAKEN[host][1]
    assert expected in said[host]
    assert bool(expected) == bool(said[host])
