from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from heartcode.server import reload_files
from heartcode.server.reload_files import Order, State

ORDER = Order(id="1", command=["/python", "-m", "x"], directory="/app", environment={"A": "b"})


def test_an_order_is_taken_once_and_is_nobody_elses_business(tmp_path: Path) -> None:
    reload_files.give(tmp_path, dataclasses.replace(ORDER, id="0"))
    reload_files.give(tmp_path, ORDER)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert reload_files.take(tmp_path) == ORDER
    assert reload_files.take(tmp_path) is None


def test_what_another_version_added_is_ignored(tmp_path: Path) -> None:
    reload_files.give(tmp_path, ORDER)
    file = tmp_path / "reload.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "later": 1}))
    assert reload_files.take(tmp_path) == ORDER


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"id": "1"}'])
def test_what_is_no_order_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "reload.json").write_text(content)
    with pytest.raises(ValueError, match=r"Expecting value|holds no JSON object|is not an order"):
        reload_files.take(tmp_path)


def test_the_state_is_the_last_that_was_reported(tmp_path: Path) -> None:
    assert reload_files.state(tmp_path) is None
    reload_files.report(tmp_path, State(master=7))
    reload_files.report(tmp_path, State(master=7, order="1", error="no"))
    assert reload_files.state(tmp_path) == State(master=7, order="1", error="no")
    reload_files.forget(tmp_path)
    assert list(tmp_path.iterdir()) == []
