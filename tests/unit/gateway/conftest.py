"""What gateway.js needs to run by itself, in njs's own interpreter."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roles.gateway.filter_plugins.api_keys import clients

ROOT = Path(__file__).parents[3]
DRIVER = """
import fs from 'fs';
import gateway from 'gateway.js';
const call = JSON.parse(fs.readFileSync('call.json', 'utf8'));
let result;
try {
    result = {value: gateway[call.name].apply(null, call.given)};
} catch (error) {
    result = {error: error.name};
}
console.log(JSON.stringify(result));
"""

MODELS = [
    {"id": "a", "aliases": ["b"], "group": "heartcode_model_0"},
    {"id": "c", "aliases": [], "group": "heartcode_model_1"},
]
CLIENTS = clients(
    [
        {"name": "anna", "key": "anna-" * 5, "requests_per_minute": 7, "parallel": 2},
        {"name": "bea", "key": "beas-" * 5, "models": ["c"], "expires": "2999-12-31"},
        {"name": "cora", "key": "cora-" * 5, "expires": "2026-01-31"},
    ],
    MODELS,
)

Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Call a function of gateway.js, in a fleet with the models a (also called b) and c.

    It knows Anna, Bea, who may use c alone, and Cora, whose key has expired.
    """
    shutil.copy(ROOT / "roles/gateway/files/gateway.js", tmp_path)
    known = {
        "needed": True,
        "strangers_per_minute": 30,
        "by_hash": {client["sha256"]: client for client in CLIENTS},
    }
    for name, content in (("fleet", {"rigs": ["rig1"], "models": MODELS}), ("clients", known)):
        (tmp_path / f"{name}.js").write_text(f"export default {json.dumps(content)};")
    (tmp_path / "driver.js").write_text(DRIVER)

    def call(name: str, *given: Any) -> Any:
        (tmp_path / "call.json").write_text(json.dumps({"name": name, "given": given}))
        done = subprocess.run(
            ["njs", "driver.js"], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        result = json.loads(done.stdout)
        if "error" in result:
            raise ValueError(result["error"])
        return result.get("value")

    return call
