"""A plugin for the pytest that runs llama.cpp's server tests: no downloads, and what came out.

`--peer-outcomes FILE` gets the outcome of each test as a JSON object.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NoReturn

import pytest

from tools.peer import differences

# Longer than any test that comes to an end takes on a busy machine.
_TEST_WITHIN_S = 120

_outcomes: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    parser.addoption("--peer-outcomes", type=Path, required=True)
    parser.addoption("--peer-only", action="append", required=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Give the tests a `wget` that fetches nothing: models come from here."""
    wget = ModuleType("wget")
    wget.download = _refuse  # type: ignore[attr-defined]
    sys.modules["wget"] = wget


def _refuse(url: str, **_: object) -> NoReturn:
    raise OSError(f"{url} is not fetched: these tests run without a network")


def pytest_configure() -> None:
    """Let the tests' helpers take this model for theirs.

    No server is started beforehand for each model of the hub, as there is none to download, and any
    words will do: a test that failed at them would say nothing of what comes after.
    """
    utils = sys.modules["utils"]
    utils.ServerPreset.load_all = lambda: None
    utils.match_regex = lambda _regex, _text: True  # type: ignore[attr-defined]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the table of the differences leaves out."""
    table = differences.read()
    only = [differences.Entry(tests=o, reason="asked") for o in config.getoption("--peer-only")]
    asked = [item for item in items if any(each.is_for(item.nodeid) for each in only)]
    _outcomes.update(
        (item.nodeid, differences.LEFT_OUT) for item in asked if table.leaves_out(item.nodeid)
    )
    items[:] = [item for item in asked if item.nodeid not in _outcomes]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """End a test that waits for ever."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(_TEST_WITHIN_S)
    try:
        yield
    finally:
        signal.alarm(0)


def _too_long(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError(f"this test has taken {_TEST_WITHIN_S} s")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the outcome: of the test itself, or of what failed before or after it."""
    if report.failed:
        _outcomes[report.nodeid] = f"failed at {_place(report)}"
    elif report.skipped or report.when == "call":
        _outcomes[report.nodeid] = report.outcome


def _place(report: pytest.TestReport) -> str:
    """Return the last line of the tests' own that the failure went through."""
    traceback: Any = getattr(report.longrepr, "reprtraceback", None)
    places = [entry.reprfileloc for entry in getattr(traceback, "reprentries", ())]
    own = [place for place in places if place and str(place.path).startswith("unit/")]
    return f"{own[-1].path}:{own[-1].lineno}" if own else f"its {report.when}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write down all outcomes."""
    session.config.getoption("--peer-outcomes").write_text(json.dumps(_outcomes, indent=1))
