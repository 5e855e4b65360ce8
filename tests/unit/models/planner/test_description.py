"""Rigs in words."""

import pytest
from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import known_cards, make_card
from heartcode_models.planner.description import EXAMPLE, parse_rig
from heartcode_models.units import MIB
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "cards"),
    [
        ("P106-100 × 6, 4 GB RAM", ["P106-100"] * 6),
        ("p106-100 x 6, 4GB ram", ["P106-100"] * 6),
        ("P106-100x6", ["P106-100"] * 6),
        ("6 x P106-100", ["P106-100"] * 6),
        ("P106-100", ["P106-100"]),
        ("P106-100 x 2 + P104-100, 8 GB RAM", ["P106-100", "P106-100", "P104-100"]),
        ("P106-100, P104-100 x 2", ["P106-100", "P104-100", "P104-100"]),
        ("NVIDIA GeForce GTX 1070 x 2", ["GTX 1070"] * 2),
        ("GTX 1060 3GB x 2", ["GTX 1060 3GB"] * 2),
        ("GTX 1060 6 GB", ["GTX 1060 6GB"]),
        ("P104-100 4 GB x 3", ["P104-100 4GB"] * 3),
        ("RTX 3060 12 GB", ["RTX 3060 12GB"]),
    ],
)
def test_cards(text: str, cards: list[str]) -> None:
    assert [card.name for card in parse_rig(text).cards] == cards


def test_the_host() -> None:
    rig = parse_rig("rig7: P106-100 x 2, Celeron G3930 2 cores, 8 GB RAM, x1, 60 GB disk")
    assert (rig.name, rig.cores, rig.disk) == ("rig7", 2, 60_000_000_000)
    assert 7.5 * 1024 < rig.ram / MIB < 8192
    assert {card.link for card in rig.cards} == {250_000_000}
    assert rig.assumed == ()


def test_measured_memory_is_taken_as_it_is() -> None:
    assert parse_rig("P106-100, 3891 MB RAM").ram == 3891 * MIB


def test_what_is_not_said_is_assumed_aloud() -> None:
    assumed = " ".join(parse_rig("P106-100").assumed)
    assert "4 GB" in assumed
    assert "2 cores" in assumed


def test_the_known_vram_is_the_measured_one() -> None:
    cards = parse_rig("P106-100 + P104-100").cards
    assert [card.vram // MIB for card in cards] == [5999, 8116]


def test_the_example_of_the_messages_is_one() -> None:
    assert len(parse_rig(EXAMPLE).cards) == 8


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4 GB RAM",
        "RTX 3060 x 2, 8 GB RAM",
        "P106-100 x 0",
        "P106-100 x 1000",
        "6 x",
        "+",
        "a: ",
    ],
)
def test_what_is_not_understood_gets_an_example(text: str) -> None:
    with pytest.raises(ModelError, match="For example"):
        parse_rig(text)


@given(st.text(max_size=80))
def test_any_text_is_a_rig_or_an_error(text: str) -> None:
    try:
        rig = parse_rig(text)
    except ModelError:
        return
    assert rig.cards
    assert all(card.vram > 0 for card in rig.cards)


@given(
    name=st.sampled_from(known_cards()),
    count=st.integers(1, 12),
    sign=st.sampled_from([" x ", " × ", "×", " X ", " * "]),
    gigabytes=st.integers(1, 64),
)
def test_a_description_says_what_was_meant(
    name: str, count: int, sign: str, gigabytes: int
) -> None:
    rig = parse_rig(f"{name}{sign}{count}, {gigabytes} GB RAM")
    assert rig.cards == (make_card(name),) * count
    assert rig.ram <= gigabytes * 1024 * MIB
