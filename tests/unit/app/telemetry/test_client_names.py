from __future__ import annotations

import pytest
from heartcode.telemetry import client_names


@pytest.fixture(autouse=True)
def nobody_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_names, "_seen", set())


@pytest.mark.parametrize(
    ("client", "label"),
    [
        ("anna", "anna"),
        ("A.b@c-d_9", "A.b@c-d_9"),
        ("", ""),
        ("192.168.1.7", ""),
        ("fe80::1", ""),
        ("::1", ""),
        ("a b", ""),
        ("a\n", ""),
        ("x" * 41, ""),
    ],
)
def test_a_name_is_a_label_and_an_address_is_none(client: str, label: str) -> None:
    assert client_names.label(client) == label


def test_made_up_names_come_to_an_end() -> None:
    names = [f"client-{number}" for number in range(client_names.MOST + 5)]
    labels = [client_names.label(name) for name in names]
    assert labels[: client_names.MOST] == names[: client_names.MOST]
    assert set(labels[client_names.MOST :]) == {client_names.OTHERS}
    assert client_names.label(names[0]) == names[0]
