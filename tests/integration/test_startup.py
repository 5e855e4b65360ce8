"""How the processes begin and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.integration.conftest import StartExporter, StartProxy, StartUpstream
from tests.integration.misbehaving import serve_two_tokens
from tests.integration.processes import APP, Program, free_port

RUN_PROXY = APP.parent / "scripts" / "run_proxy.sh"
PROXY = ["-m", "heartcode.master"]
EXPORTER = ["-m", "heartcode.exporter"]


@pytest.mark.parametrize("program", [PROXY, EXPORTER], ids=["proxy", "exporter"])
def test_wrong_settings_are_named_and_nothing_starts(program: list[str], tmp_path: Path) -> None:
    env = {"PORT": "http", "HEARTCODE_LOG_LEVEL": "loud", "HEARTCODE_METRICS_DIR": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, *program], env=env, cwd=APP, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 78
    assert ended.stderr.splitlines() == [
        "HeartCode cannot start, its settings are wrong:",
        "  - HEARTCODE_BACKENDS is missing (base URLs, separated by commas)",
        "  - PORT=http is not a whole number from 1 to 65535",
        "  - HEARTCODE_LOG_LEVEL=loud is not one of debug, info, warning, error",
    ]


def test_the_exporter_says_in_a_line_that_its_port_is_taken(
    start_proxy: StartProxy, start_exporter: StartExporter
) -> None:
    proxy = start_proxy("http://127.0.0.1:1")
    exporter = start_exporter(proxy)
    second = subprocess.run(
        [sys.executable, *EXPORTER],
        env=proxy.env,
        cwd=APP,
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert second.stderr.startswith("The exporter cannot listen on 127.0.0.1 port ")
    assert exporter.stop() == 0


def test_the_exporter_serves_before_the_proxy_ever_ran(
    start_proxy: StartProxy, start_exporter: StartExporter, tmp_path: Path
) -> None:
    proxy = start_proxy("http://127.0.0.1:1")
    proxy.stop()
    proxy.env["HEARTCODE_METRICS_DIR"] = str(tmp_path / "missing")
    began = time.time()
    exporter = start_exporter(proxy)
    assert exporter.value("heartcode_build_info") == 1
    # To a hundredth of a second, as the kernel counts.
    assert began - 1 < exporter.value("process_start_time_seconds") < time.time() + 1
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "counter_0.db").touch()  # a worker that is just beginning
    assert exporter.value("heartcode_build_info") == 1


def test_gunicorn_leaves_nothing_elsewhere(start_proxy: StartProxy, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    proxy = start_proxy("http://127.0.0.1:1", HOME=str(home), TMPDIR=str(home))
    assert list(home.iterdir()) == []
    assert proxy.stop() == 0
    assert {path.name for path in proxy.run_dir.iterdir()} == {
        "metrics",
        "proxy.stdout",
        "proxy.stderr",
    }


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_run_proxy_serves_and_cleans_up(
    start_upstream: StartUpstream, tmp_path: Path, ended_by: signal.Signals
) -> None:
    port = free_port()
    env = {
        "PATH": os.environ["PATH"],
        "PYTHON": sys.executable,
        "TMPDIR": str(tmp_path),
        "BACKENDS": start_upstream(serve_two_tokens).url,
        "PORT": str(port),
    }
    program = Program([str(RUN_PROXY)], name="run", directory=tmp_path / "logs", env=env)
    try:
        url = f"http://127.0.0.1:{port}"
        program.wait_until_answers(f"{url}/livez")
        assert requests.post(f"{url}/tokenize", json={}, timeout=30).json() == {"n": 2}
        program.process.send_signal(ended_by)
        assert program.process.wait(30) == 0
    finally:
        program.process.terminate()
        program.process.wait(30)
    assert {path.name for path in tmp_path.iterdir()} == {"logs"}
