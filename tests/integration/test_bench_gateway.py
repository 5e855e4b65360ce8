"""tools/bench_gateway.py from end to end, with few conversations: what it measures is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench.gateway import is_installed

SCRIPT = Path(__file__).parents[2] / "tools" / "bench_gateway.py"


@pytest.mark.skipif(not is_installed(), reason="nginx with njs is not installed")
def test_reuse_is_counted_in_every_way(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    options = ("--only=caches", "--conversations=4", "--turns=2", "--at-a-time=2")
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--dead-weight-mib=0", f"--json={result}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "least connections" in done.stdout
    seen = json.loads(result.read_text())["caches"]
    assert len(seen) == 6
    (own,) = (x for x in seen if x["way"] == "HeartCode" and x["cache_ram_mib"])
    assert own["reusable"] > 4 * 500
    assert 0 < own["reused"] <= own["reusable"]
    assert own["despite_free"] == 0
