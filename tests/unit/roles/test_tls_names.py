"""What clients call the gateway, and what a certificate makes of it."""

from roles.gateway.filter_plugins.tls_names import alternatives, shown, unconfirmed, wrong

NAMES = ["chat.example.org", "192.168.1.5", "fd00::5", "*.example.org", "box", "8", "4.example"]


def test_a_certificate_tells_addresses_from_names() -> None:
    assert alternatives(NAMES) == [
        "DNS:chat.example.org",
        "IP:192.168.1.5",
        "IP:fd00::5",
        "DNS:*.example.org",
        "DNS:box",
        "IP:8",
        "DNS:4.example",
    ]


def test_a_client_asks_for_names_alone() -> None:
    assert shown(NAMES) == ["chat.example.org", "box", "4.example"]


def test_public_names_alone_are_confirmed() -> None:
    assert unconfirmed(NAMES) == ["192.168.1.5", "fd00::5", "*.example.org", "box", "8"]
    assert unconfirmed(["chat.example.org"]) == []


def test_names_have_no_scheme_path_or_blank() -> None:
    bad = ["", "https://chat.example.org", "chat.example.org/", "a b", "-a", "a.", "[::1]", "a\n"]
    assert wrong([*NAMES, *bad]) == bad
