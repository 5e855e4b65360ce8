"""The fault matrix, the document that has its figures, and the alerts that it waits for."""

import pytest

from tests.contracts.test_alerts import ALERTS
from tests.contracts.test_roles import ROOT
from tests.fleet.faults import FAULTS, Fault


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_has_its_line_in_the_document(fault: Fault) -> None:
    assert f"\n| `{fault.name}` |" in (ROOT / "docs/reliability.md").read_text()


def test_alerts_that_are_waited_for_exist() -> None:
    assert {fault.alert for fault in FAULTS if fault.alert} <= set(ALERTS)
