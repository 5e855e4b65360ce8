"""What all units have in common."""

from pathlib import Path

import pytest

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_system_call_that_is_not_allowed_fails_and_kills_nobody(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    filtered = any(line.startswith("SystemCallFilter=") for line in lines)
    assert ("SystemCallErrorNumber=EPERM" in lines) == filtered
