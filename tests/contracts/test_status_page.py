"""The page /status asks for series that exist and shows them; its library is as it came."""

import hashlib
import json
import re
from typing import Any

import pytest
from jinja2.nativetypes import NativeEnvironment

from tests.contracts.test_alerts import FOREIGN, RECORDED, names_in, told
from tests.contracts.test_roles import ROOT, load

FILES = ROOT / "roles/gateway/files"
VARIABLES = load("roles/gateway/vars/main.yml")
VENDORED = json.loads((FILES / "vendored.json").read_text())
#: A selector of several metrics; only these have a name inside quotes.
SELECTOR = re.compile(r'\{__name__=~"([^"]+)"\}')


def queries() -> dict[str, str]:
    """What nginx asks Prometheus for, by name."""
    render = NativeEnvironment().from_string
    return {
        name: render(query).render(_gateway_status_metrics=VARIABLES["_gateway_status_metrics"])
        for name, query in VARIABLES["_gateway_status_queries"].items()
    }


def asked(query: str) -> set[str]:
    """The metrics that a query asks for, in whichever way."""
    selected = {name for names in SELECTOR.findall(query) for name in names.split("|")}
    return selected | names_in(SELECTOR.sub(" ", query))


def script(name: str) -> str:
    return (FILES / "status/status" / name).read_text()


@pytest.mark.parametrize("name", queries())
def test_queries_ask_for_what_is_told_or_recorded(name: str) -> None:
    known = told() | set(RECORDED)
    names = asked(queries()[name])
    assert names
    assert {name for name in names - known if not FOREIGN.fullmatch(name)} == set()


def test_names_in_selectors_are_found() -> None:
    query = 'max({__name__=~"a_b|c:d"}[7d:1m]) and on (rig) (up{job="x"} == 0)'
    assert asked(query) == {"a_b", "c:d", "up"}


def test_the_page_uses_every_metric_that_it_asks_for() -> None:
    fleet = script("fleet.js")
    unused = [name for name in VARIABLES["_gateway_status_metrics"] if name not in fleet]
    assert [name for name in unused if not name.startswith("fleet:")] == []
    assert "startsWith('fleet:')" in fleet


def test_the_page_asks_only_for_what_there_is() -> None:
    scripts = "".join(path.read_text() for path in FILES.glob("status/status/*.js"))
    names = set(re.findall(r"\bask\('(\w+)'\)", scripts))
    assert names == {*queries(), "alerts"}


def test_names_are_paths() -> None:
    assert [name for name in queries() if not re.fullmatch("[a-z]+", name)] == []


@pytest.mark.parametrize("file", VENDORED["files"])
def test_what_was_vendored_is_as_it_came(file: str) -> None:
    content = (FILES / file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == VENDORED["files"][file]["sha256"]


def test_the_library_is_of_the_version_that_is_told() -> None:
    version = VENDORED["version"]
    assert f"uPlot (v{version})" in script("uPlot.iife.min.js").splitlines()[0]
    assert VENDORED["taken"] == f"npm pack {VENDORED['package']}@{version}"
    assert len(VENDORED["tarball_sha256"]) == 64


def test_every_file_of_the_page_can_be_fetched() -> None:
    """And no data: what is open and what needs a key are told apart by these two."""
    paths = VARIABLES["_gateway_status_paths"]
    files = [path.name for path in FILES.glob("status/status/*") if path.suffix != ".LICENSE"]
    installed = [
        entry["src"]
        for task in load("roles/gateway/tasks/page.yml")
        for entry in task.get("host_files", {}).get("files", [])
    ]
    shared = [src.removeprefix("page/page/") for src in installed if src.startswith("page/page/")]
    assert len(shared) > 1
    assert set(shared).isdisjoint(files)
    wanted = ["/status", "/status/", *(f"/status/{name}" for name in [*files, *shared])]
    assert [path for path in wanted if not re.search(paths, path)] == []
    named = re.findall(
        r'(?:href|src)="/status/([^"]+)"', (FILES / "status/status.html").read_text()
    )
    imported = re.findall(r"from '\./([^']+)'", "".join(map(script_or_shared, [*files, *shared])))
    assert {*named, *imported} <= {*files, *shared}
    data = [f"/status/data/{name}" for name in [*queries(), "alerts"]]
    assert [path for path in data if re.search(paths, path)] == []


def script_or_shared(name: str) -> str:
    here: Any = FILES / "status/status" / name
    path = here if here.exists() else FILES / "page/page" / name
    return str(path.read_text())
