"""Rigs in words."""

import pytest
from heartcode_models.errors import ModelError
from heartcode_models.planner.cards import known_cards, make_card, nominal_ram
from heartcode_models.planner.description import (
    EXAMPLE,
    parse_helper,
    parse_network,
    parse_rig,
)
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
        # As people write it.
        ("6x P106-100, 8GB RAM", ["P106-100"] * 6),
        ("6 P106-100 8gb ram", ["P106-100"] * 6),
        ("p106-100 6x", ["P106-100"] * 6),
        ("6 × P106-100 cards, RAM: 4 GB", ["P106-100"] * 6),
        ("P106 100 x2; P104-100 (8 GB)", ["P106-100", "P106-100", "P104-100"]),
        ("P106-100 x 2 with 8 GB RAM and SSD 120 GB", ["P106-100"] * 2),
        ("1080ti x2", ["GTX 1080 Ti"] * 2),
        ("gpu 8 GB VRAM x 3", ["gpu 8GB"] * 3),
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


@pytest.mark.parametrize(
    ("said", "ram_gb", "disk_gb", "cores", "link"),
    [
        ("RAM 4 GB", 4, None, 2, None),
        ("4GB RAM", 4, None, 2, None),
        ("8 GB of DDR4, SSD 120 GB", 8, 120, 2, None),
        ("DDR4 64GB + 1 TB HDD", 64, 1000, 2, None),
        ("memory: 8g; M.2 SSD 250GB free", 8, 250, 2, None),
        ("2x4GB DDR3L-1600, quad core", 8, None, 4, None),
        ("RAM=8GB & 4-core Celeron, x1 risers", 8, None, 4, 250_000_000),
        ("4 threads, risers", 4, None, 4, 250_000_000),
        ("Celeron G3930, PCIe 3.0 x4", 4, None, 2, 1_000_000_000),
    ],
)
def test_the_host_in_other_words(
    said: str, ram_gb: int, disk_gb: int | None, cores: int, link: int | None
) -> None:
    for text in (f"P106-100 x 2, {said}", f"{said}, 2x P106-100"):
        rig = parse_rig(text)
        assert len(rig.cards) == 2
        assert rig.ram == nominal_ram(ram_gb)
        assert rig.disk == (disk_gb * 1_000_000_000 if disk_gb else None)
        assert rig.cores == cores
        assert {card.link for card in rig.cards} == {link or 1_700_000_000}


def test_facts_need_no_commas() -> None:
    rig = parse_rig("rig1: P106-100x6 4GB RAM 2 cores x1 risers 60GB SSD")
    assert (rig.name, len(rig.cards), rig.ram) == ("rig1", 6, nominal_ram(4))
    assert (rig.disk, rig.cards[0].link) == (60_000_000_000, 250_000_000)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("P016-100 x 2, 4 GB RAM", r"'P016-100' is no card .* \(is it P106-100\?\)"),
        ("GTX 1060 x 2", "is it GTX 1060 3GB or GTX 1060 6GB"),
        ("RTX 3060 x 2", "write the memory behind the name, as in 'RTX 3060 12 GB'"),
        ("SSD 120 GB x 2", "'x 2' is no card"),
        ("Mainboard 8 GB x 2", "'Mainboard' is no card"),
        ("RX 580 8 GB x 6", "no card of NVIDIA"),
        ("K80 24 GB", "'K80' is too old: llama.cpp's kernels need compute capability 6.1"),
        ("GTX 980 Ti 6 GB x 2", "'GTX 980 Ti' is too old"),
        ("Tesla P100 16 GB", "'Tesla P100' is too old"),
        ("Quadro M4000 8 GB", "'Quadro M4000' is too old"),
        ("P106-100 x 65", "65 cards of a kind; give 1 to 64"),
        ("P106-100 x 40 + P104-100 x 40", "it has 80 cards; give 64 at most"),
        ("P106-100 x 6, 8 GB", "'8 GB' does not say of what"),
        ("P104-100 4 GB RAM 8 GB", "a size too many"),
        ("P106-100, 4 GB RAM, RAM 8 GB", "RAM is given twice"),
        ("P106-100, RAM 0 GB", "'RAM 0 GB' cannot be its RAM"),
        ("P106-100, 8000 GB RAM", "cannot be its RAM"),
        ("P106-100, 0 cores", "'0 cores' cannot be its cores"),
        ("DDR4 64GB", "it names no cards"),
        ("P106-100, 750W PSU", "'750W PSU' is no card"),
    ],
)
def test_what_is_no_card_is_not_taken_for_one(text: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        parse_rig(text)


@pytest.mark.parametrize(
    "name", ["Tesla P40", "P4", "Quadro P1000", "GT 1030", "Titan Xp", "GTX 1650", "A100", "T4"]
)
def test_cards_that_are_new_enough_are_planned_for(name: str) -> None:
    assert parse_rig(f"{name} 8 GB, 4 GB RAM").cards[0].vram == int(8 * 1024 * 0.975) * MIB


def test_a_name_that_is_nearly_known_is_asked_back_about() -> None:
    assumed = parse_rig("P016-100 6 GB x 2, 4 GB RAM, 2 cores").assumed
    assert assumed == ("P016-100 6GB is no card that is known; is it P106-100?",)
    assert parse_rig("RTX 3060 12 GB, 4 GB RAM, 2 cores").assumed == ()


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


# --- over rigs ---------------------------------------------------------------------------------


def test_a_helper_is_described_as_a_rig_is() -> None:
    helper, notes = parse_helper("P106-100 x 3 + P104-100, 8 GB RAM, x1", "helper1")
    assert (helper.name, len(helper.cards), helper.ram) == ("helper1", 4, nominal_ram(8))
    assert {card.host for card in helper.cards} == {"helper1"}
    assert {card.link for card in helper.cards} == {250_000_000}
    assert notes == ()
    helper, notes = parse_helper("box: P106-100", "helper1")
    assert {card.host for card in helper.cards} == {"box"}
    assert notes == ("box: host RAM is not given: 4 GB are assumed",)


@pytest.mark.parametrize(
    ("text", "mib_s"),
    [
        ("1Gbit", 110),
        ("1 Gbit/s", 110),
        ("2.5gbit", 275),
        ("10G", 1100),
        ("10Gbps", 1100),
        ("100 Mbit/s", 11),
        ("95 MiB/s", 95),
        (" 1Gb/s ", 110),
    ],
)
def test_a_network_is_as_fast_as_is_sold_or_measured(text: str, mib_s: float) -> None:
    assert parse_network(text) / MIB == pytest.approx(mib_s, rel=1e-6)


@pytest.mark.parametrize(
    "text",
    ["", "fast", "1", "100 MB/s", "1GB/s", "10GB", "0Gbit", "1 Tbit", "1000 Gbit", "-1G"],
)
def test_a_speed_that_may_mean_two_things_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"as in '1Gbit' or '2.5 Gbit/s', or what"):
        parse_network(text)
