"""docs/clients.md lists every error that somebody may be told, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (\d{3}) \| `([a-z_]+)`", (ROOT / "docs/clients.md").read_text(), re.MULTILINE
)
# llama-server's own, which are passed on (tools/server/server-common.cpp, format_error_response).
LLAMA_SERVER_S = {
    *("invalid_request_error", "server_error", "not_supported_error", "exceed_context_size_error"),
}


def in_python() -> set[str]:
    texts = [path.read_text() for path in (ROOT / "app/heartcode").rglob("*.py")]
    said = [code for text in texts for code in re.findall(r'code(?:: str)? ?= ?"([a-z_]+)"', text)]
    said += [code for text in texts for code in re.findall(r'code = "[^"]+", "([a-z_]+)"', text)]
    handlers = (ROOT / "app/heartcode/api/error_handlers.py").read_text()
    said += re.findall(r'^    \d{3}: "([a-z_]+)",', handlers, re.MULTILINE)
    worker = (ROOT / "app/heartcode/server/worker.py").read_text()
    said += re.findall(r'^    \(errors[.]\w+, \d{3}, "([a-z_]+)"', worker, re.MULTILINE)
    return set(said)


def at_the_gateway() -> set[tuple[str, str]]:
    role = ROOT / "roles/gateway"
    own = yaml.safe_load((role / "vars/main.yml").read_text())["_gateway_errors"]
    script = (role / "files/gateway.js").read_text()
    told = re.findall(r"(?:answer|lost|errorText)\(r, (\d{3}), '([a-z_]+)'", script)
    return {(str(error["status"]), error["code"]) for error in own} | set(told)


def test_what_the_rigs_say_is_listed() -> None:
    found = in_python()
    assert {"invalid_json", "invalid_value", "headers_too_large", "queue_full"} <= found
    assert found <= {code for _, code in ROWS}


def test_what_the_gateway_says_is_listed_with_its_status() -> None:
    found = at_the_gateway()
    assert {
        ("404", "model_not_found"),
        ("401", "invalid_api_key"),
        ("413", "request_too_large"),
    } <= (found)
    assert found <= set(ROWS)


def test_nothing_else_is_listed() -> None:
    told = in_python() | {code for _, code in at_the_gateway()} | LLAMA_SERVER_S
    told |= set(re.findall(r'"code": "([a-z_]+)"', _status_page()))
    told |= {"backend_unavailable", "exceed_context_size_error"}
    assert {code for _, code in ROWS} <= told
    assert len(ROWS) == len(set(ROWS))


def _status_page() -> str:
    return (ROOT / "roles/gateway/templates/status.conf.j2").read_text()
