"""What two versions have to agree on, as a reload crosses from one to the other and back (ADR 9).

Spelt out here, so that a new name in the code does not change both sides of a comparison.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from heartcode.server import reload_files
from heartcode.server.arbiter import Master, command
from heartcode.server.hot_restart import Heartbeat, InheritedWorker, inherit, pass_on
from heartcode.server.reload_files import Order, State
from heartcode.server.worker import RETIRE, is_closed, is_serving

from tests.contracts.test_roles import ROOT

ORDER: dict[str, Any] = {
    "id": "1",
    "command": ["/python"],
    "directory": "/there",
    "environment": {"PORT": "1"},
}
STATE: dict[str, Any] = {"master": 7, "order": "1", "error": "no"}
WORKER: dict[str, Any] = {"pid": 8, "age": 2, "metrics_seat": 1, "grace_s": 30, "retired": True}


def commands(file: Path) -> dict[str, str]:
    """The unit's commands that run a module of the program, by what systemd calls them."""
    found = re.findall(r"^(Exec\w+)=\S+/python -m (\S+)", file.read_text(), re.MULTILINE)
    return dict(found)


def test_the_proxy_is_started_and_reloaded_by_names_that_every_version_has() -> None:
    assert commands(ROOT / "systemd/heartcode.service") == {
        "ExecStart": "heartcode.master",
        "ExecReload": "heartcode.reload",
    }
    assert command()[1:] == ["-m", "heartcode.master"]


UNITS = [path for path in sorted((ROOT / "systemd").glob("*.service")) if commands(path)]


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_run_modules_that_are_there(unit: Path) -> None:
    for module in commands(unit).values():
        spec = find_spec(module)
        assert spec is not None, module
        assert spec.submodule_search_locations is None or find_spec(f"{module}.__main__"), module


def test_an_order_and_a_state_can_be_read_by_both(tmp_path: Path) -> None:
    order, state = tmp_path / "reload.json", tmp_path / "proxy.json"
    reload_files.give(tmp_path, Order(**ORDER))
    reload_files.report(tmp_path, State(**STATE))
    assert json.loads(order.read_text()).items() >= ORDER.items()
    assert json.loads(state.read_text()).items() >= STATE.items()
    order.write_text(json.dumps(ORDER))
    state.write_text(json.dumps(STATE))
    assert reload_files.take(tmp_path) == Order(**ORDER)
    assert reload_files.state(tmp_path) == State(**STATE)


def test_sockets_and_workers_can_be_taken_over_by_both() -> None:
    with socket.socket() as listener, tempfile.TemporaryFile() as heartbeat:
        told = {
            "master": os.getpid(),
            "order": "1",
            "listeners": [listener.fileno()],
            "workers": [{**WORKER, "heartbeat": heartbeat.fileno()}],
        }
        inherited = inherit({"HEARTCODE_INHERITED": json.dumps(told)})
        (worker,) = inherited.workers
        assert vars(worker).items() >= WORKER.items()
        assert isinstance(worker, InheritedWorker)
        assert isinstance(worker.tmp, Heartbeat)
        again = json.loads(pass_on([listener], [worker], order="1")["HEARTCODE_INHERITED"])
        assert again == told


def test_a_master_and_a_worker_of_two_versions_understand_each_other() -> None:
    assert signal.SIGUSR2 == RETIRE
    assert signal.SIGUSR2 in Master.SIGNALS
    steps = []
    with tempfile.TemporaryFile(buffering=0) as heartbeat:
        worker = InheritedWorker(
            pid=8,
            age=2,
            metrics_seat=1,
            grace_s=30,
            retired=False,
            tmp=Heartbeat(heartbeat.fileno()),
        )
        for _ in range(3):
            steps.append((is_serving(worker), is_closed(worker)))
            heartbeat.write(b".")
    assert steps == [(False, False), (True, False), (True, True)]
