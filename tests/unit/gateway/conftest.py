"""What gateway.js needs to run by itself, in njs's own interpreter."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roles.gateway.filter_plugins.api_keys import clients
from tools.bench.gateway import SCRIPTS

ROOT = Path(__file__).parents[3]
# `read` is given its body in a file, and `effort` tells what that takes: how often a byte is looked
# at or a method of the buffer is called, and how many bytes indexOf() passes and toString() copies.
DRIVER = """
import fs from 'fs';
import body from 'body.js';
import gateway from 'gateway.js';
const call = JSON.parse(fs.readFileSync('call.json', 'utf8'));
const given = call.name === 'read' || call.name === 'effort' ? fs.readFileSync('body') : null;
gateway.read = () => body.read(given);
gateway.budget = body.budget;
gateway.effort = () => {
    const told = {looks: 0, searched: 0, copied: 0};
    const watched = {
        length: given.length,
        indexOf: (byte, from) => {
            const found = given.indexOf(byte, from);
            told.looks += 1;
            told.searched += (found < 0 ? given.length : found + 1) - Math.min(from, given.length);
            return found;
        },
        toString: (encoding, from, to) => {
            told.looks += 1;
            told.copied += to - from;
            return given.toString(encoding, from, to);
        },
    };
    for (let n = 0; n < given.length; n += 1) {
        const byte = given[n];
        Object.defineProperty(watched, n, {get: () => { told.looks += 1; return byte; }});
    }
    const read = body.read(watched);
    return Object.assign(told, {is_whole: read.is_whole, error: read.error});
};
let result;
try {
    result = {value: gateway[call.name].apply(null, call.given)};
} catch (error) {
    result = {error: error.name};
}
fs.writeFileSync('result.json', JSON.stringify(result)); // console.log() breaks what is long
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
    for script in SCRIPTS:
        shutil.copy(ROOT / "roles/gateway/files" / script, tmp_path)
    known = {
        "needed": True,
        "strangers_per_minute": 30,
        "by_hash": {client["sha256"]: client for client in CLIENTS},
    }
    for name, content in (
        ("fleet", {"rigs": ["rig1"], "rigs_asked": 10, "models": MODELS}),
        ("clients", known),
    ):
        (tmp_path / f"{name}.js").write_text(f"export default {json.dumps(content)};")
    (tmp_path / "driver.js").write_text(DRIVER)

    def call(name: str, *given: Any, body: bytes = b"") -> Any:
        (tmp_path / "body").write_bytes(body)
        (tmp_path / "call.json").write_text(json.dumps({"name": name, "given": given}))
        subprocess.run(["njs", "driver.js"], cwd=tmp_path, check=True)
        result = json.loads((tmp_path / "result.json").read_text())
        if "error" in result:
            raise ValueError(result["error"])
        return result.get("value")

    return call
