"""What the gateway's relay is told of the rigs."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from roles.gateway.filter_plugins.relay import relay_addresses, relay_settings

RIGS = st.ip_addresses(v=4).map(lambda ip: f"{ip}:8080") | st.from_regex(
    r"[a-z]{1,8}:[0-9]{2,4}", fullmatch=True
)


def upstreams(*rigs: str) -> list[dict[str, str]]:
    return [{"address": rig} for rig in rigs]


def test_a_rig_is_known_again_by_its_address() -> None:
    found = relay_addresses(upstreams("192.168.1.21:8080", "192.168.1.22:8080"))
    assert found == {"192.168.1.21:8080": "127.168.1.21", "192.168.1.22:8080": "127.168.1.22"}


@given(st.lists(RIGS, unique=True, max_size=20))
def test_each_has_one_of_its_own_whatever_their_order(rigs: list[str]) -> None:
    found = relay_addresses(upstreams(*rigs))
    assert found == relay_addresses(upstreams(*reversed(rigs)))
    assert len(set(found.values())) == len(rigs)
    for address in map(IPv4Address, found.values()):
        assert address in IPv4Network("127.0.0.0/8")
        assert address not in IPv4Network("127.0.0.0/30")


def test_two_that_end_alike_and_one_with_a_name_have_addresses_too() -> None:
    rigs = ("10.0.0.5:8080", "10.0.0.5:8081", "127.0.0.1:8080", "rig4:8080", "[fd00::5]:8080")
    found = relay_addresses(upstreams(*rigs))
    assert found["10.0.0.5:8080"] == "127.0.0.5"
    assert len(set(found.values())) == len(rigs)


def test_a_rig_with_several_models_is_one_backend() -> None:
    given = [
        {"address": "a:1", "models": [{"names": ["m", "alias"]}, {"names": ["n"]}]},
        {"address": "b:1", "models": [{"names": ["n"]}]},
    ]
    assert relay_settings(given, {"a:1": "127.1.1.1", "b:1": "127.1.1.2"}) == {
        "HEARTCODE_BACKENDS": "http://a:1,http://b:1",
        "HEARTCODE_RIG_ADDRESSES": "127.1.1.1,127.1.1.2",
        "HEARTCODE_RIG_MODELS": "m|n,n",
    }
