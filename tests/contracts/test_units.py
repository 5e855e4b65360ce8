"""What all units have in common."""

from pathlib import Path

import pytest
from heartcode.settings.table import TABLE

UNITS = sorted((Path(__file__).parents[2] / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_system_call_that_is_not_allowed_fails_and_kills_nobody(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    filtered = any(line.startswith("SystemCallFilter=") for line in lines)
    assert ("SystemCallErrorNumber=EPERM" in lines) == filtered


@pytest.mark.parametrize("name", ["heartcode.service", "heartcode-relay.service"])
def test_as_many_streams_as_may_be_connected_have_two_sockets_each(name: str) -> None:
    (unit,) = (unit for unit in UNITS if unit.name == name)
    (limit,) = (
        int(line.removeprefix("LimitNOFILE="))
        for line in unit.read_text().splitlines()
        if line.startswith("LimitNOFILE=")
    )
    (setting,) = (row for row in TABLE if row.variable == "HEARTCODE_MAX_CONNECTIONS")
    beside_streams = 256  # logs, metrics, listeners, libraries
    fits = (limit - beside_streams) // 2
    assert setting.default is not None
    assert 4000 <= setting.parse(setting.default) <= fits
    with pytest.raises(ValueError, match="whole number"):
        setting.parse(str(fits + 1))
