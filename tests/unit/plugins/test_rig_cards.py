"""Which backend of a rig gets which card."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter.rig_cards import CPU, address, rig_cards, rig_ram, rig_shapes

A, B, C, D = (f"GPU-10600000-0000-4000-8000-00000000000{n}" for n in range(1, 5))
#: Where they are, as nvidia-smi says it.
PLACES = {
    A: "00000000:01:00.0",
    B: "00000000:02:00.0",
    C: "00000000:0A:00.0",
    D: "00000000:0B:00.0",
}


def on_the_bus(*uuids: str) -> list[str]:
    return [f"0000:{PLACES[uuid][9:].lower()}" for uuid in uuids]


def seen(*uuids: str) -> list[dict[str, str]]:
    return [{"uuid": uuid, "pci.bus_id": PLACES[uuid]} for uuid in uuids]


def of(*shown: str, bus: Any = None, **changes: Any) -> dict[str, Any]:
    host: dict[str, Any] = {
        "name": "rig1",
        "listed": [],
        "left_out": [],
        "backend": "cuda",
        "looked": True,
        "deployed": {},
        "seen": seen(*shown),
        "bus": on_the_bus(*shown) if bus is None else bus,
    }
    return rig_cards(host | changes)


def uuids(*shown: str, **changes: Any) -> list[str]:
    found = of(*shown, **changes)
    assert found["faults"] == []
    return [backend["uuid"] for backend in found["backends"]]


def fault(*shown: str, **changes: Any) -> str:
    (text,) = of(*shown, **changes)["faults"]
    assert text.startswith("rig1: ")
    return str(text).removeprefix("rig1: ")


# --- found -------------------------------------------------------------------------------------


def test_cards_are_numbered_in_the_order_of_their_addresses() -> None:
    assert uuids(C, B, A) == [A, B, C]


def test_numbers_stay_when_a_card_drops_out_and_when_it_is_back() -> None:
    deployed = {"0": A, "1": B, "2": C}
    # Off the bus, or on it without an answer.
    assert uuids(A, C, deployed=deployed) == [A, B, C]
    assert uuids(A, C, bus=on_the_bus(A, B, C), deployed=deployed) == [A, B, C]
    assert uuids(A, B, C, deployed=deployed) == [A, B, C]


def test_a_driver_that_does_not_answer_changes_nothing() -> None:
    assert uuids(bus=on_the_bus(A, B, C), deployed={"0": B, "1": A}) == [B, A]


def test_a_new_card_gets_the_next_number_wherever_it_is_plugged_in() -> None:
    assert uuids(A, B, C, deployed={"0": B, "1": C}) == [B, C, A]


def test_numbers_are_read_as_numbers() -> None:
    deployed = {str(n): f"GPU-10600000-0000-4000-8000-0000000000{n:02}" for n in range(10, 21)}
    renamed = {str(n): deployed[str(n + 10)] for n in range(11)}
    assert uuids(A, deployed=renamed)[0] == A
    assert uuids(A, deployed=renamed)[1:] == [renamed[str(n)] for n in range(1, 11)]


def test_cards_that_other_hosts_lend_are_not_the_rig_s() -> None:
    deployed = {"0": f"{C}@rig2+{D}@rig3+{B}+{A}"}
    assert uuids(A, B, deployed=deployed) == [B, A]
    # One of the rig's own that has dropped out is still remembered, and one that is lent is not.
    assert uuids(A, deployed=deployed) == [B, A]
    assert uuids(bus=[], deployed=deployed) == [B, A]
    # In the place of one that is named.
    listed = [{"gpus": [1, 0]}]
    assert uuids(A, B, deployed={"0": f"{C}@rig2+{B}+{A}"}, listed=listed) == [f"{B}+{A}"]


def test_a_replaced_card_takes_the_lost_one_s_place() -> None:
    found = of(A, C, D, deployed={"0": A, "1": B, "2": C})
    assert [one["uuid"] for one in found["backends"]] == [A, D, C]
    assert found["notes"] == [f"rig1: {D} takes the place of {B}"]


def test_two_are_replaced_and_a_third_is_new() -> None:
    assert uuids(B, C, D, deployed={"0": A}) == [B, C, D]


@pytest.mark.parametrize("name", [B, "0000:02:00.0", "02:00.0", "00000000:02:00.0"])
def test_a_card_that_is_left_out_is_nobody_s(name: str) -> None:
    assert uuids(A, B, C, left_out=[name]) == [A, C]
    # It has served before: the others move up.
    assert uuids(A, B, C, left_out=[name], deployed={"0": A, "1": B, "2": C}) == [A, C]
    # The driver does not list it either.
    if not name.startswith("GPU"):
        assert uuids(A, C, bus=on_the_bus(A, B, C), left_out=[name]) == [A, C]


def test_a_lost_card_that_shall_not_come_back_is_left_out_by_its_uuid() -> None:
    assert uuids(A, C, left_out=[B], deployed={"0": A, "1": B, "2": C}) == [A, C]


def test_a_card_that_the_driver_does_not_list_is_told() -> None:
    text = fault(A, bus=on_the_bus(A, B))
    assert text.startswith("the driver does not list the card of NVIDIA at 0000:02:00.0. Check")
    assert text.endswith("llama_server_gpus_except: ['0000:02:00.0']")
    # One of the two has served, and waits for its card.
    assert "0000:02:00.0, 0000:0a:00.0" in fault(
        A, bus=on_the_bus(A, B, C), deployed={"0": A, "1": B}
    )


def test_before_there_is_a_driver_cards_are_known_by_their_place() -> None:
    assert uuids(bus=on_the_bus(B, A)) == ["PCI-0000:01:00.0", "PCI-0000:02:00.0"]
    assert uuids(bus=on_the_bus(B, A), left_out=["02:00.0"]) == ["PCI-0000:01:00.0"]


def test_a_rig_without_a_card_may_compute_on_its_cpu() -> None:
    text = fault()
    assert text.startswith("there is no card of NVIDIA on the PCI bus.")
    assert "llama_cpp_backend: cpu" in text
    assert uuids(looked=False, backend="cpu") == [CPU]
    assert uuids(looked=False, backend="cpu", deployed={"0": CPU}) == [CPU]
    # One that has served so, and has got cards.
    assert uuids(A, deployed={"0": CPU}) == [A]


def test_all_cards_left_out_are_none() -> None:
    assert fault(A, left_out=[A]) == "llama_server_gpus_except leaves no card for a backend"


@pytest.mark.parametrize("name", ["P106-100", 3, "GPU-1", "03:00"])
def test_what_is_left_out_has_to_be_a_card(name: object) -> None:
    assert fault(A, left_out=[name]).startswith(f"llama_server_gpus_except: '{name}' is no PCI")


# --- named -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        {"uuid": B},
        {"pci": "02:00.0"},
        {"pci": "0000:02:00.0"},
        {"pci_order": 1},
        {"pci_order": "1"},
    ],
)
def test_a_card_is_named_by_uuid_address_or_order(entry: dict[str, Any]) -> None:
    found = of(A, B, C, listed=[{"uuid": C, "slots": 2}, entry | {"n_ctx": 8192}])
    assert found["backends"] == [{"uuid": C, "slots": 2}, {"uuid": B, "n_ctx": 8192}]
    assert found["faults"] == found["notes"] == []


def test_cards_that_are_not_named_are_nobody_s_business() -> None:
    assert uuids(A, bus=on_the_bus(A, B), listed=[{"uuid": A}]) == [A]
    (note,) = of(A, B, listed=[{"uuid": A}], left_out=[B])["notes"]
    assert "is for cards that are found, not for a list" in note


def test_named_cards_may_drop_out_too() -> None:
    deployed = {"0": A, "1": B, "2": C}
    listed = [{"pci": "01:00.0"}, {"pci": "02:00.0"}, {"uuid": C}]
    assert uuids(A, C, listed=listed, deployed=deployed) == [A, B, C]
    # Counted without the one that is gone, they would all move up.
    in_order = [{"pci_order": n} for n in range(3)]
    assert uuids(A, C, listed=in_order, deployed=deployed) == [A, B, C]
    assert uuids(A, C, D, listed=in_order) == [A, C, D]


def test_named_cards_are_known_by_their_place_before_there_is_a_driver() -> None:
    listed = [{"pci": "02:00.0"}, {"pci_order": 0}, {"uuid": C}]
    assert uuids(bus=on_the_bus(A, B, C), listed=listed) == [
        "PCI-0000:02:00.0",
        "PCI-0000:01:00.0",
        C,
    ]


def test_a_card_that_is_not_there_is_told_with_those_that_are() -> None:
    text = fault(A, B, listed=[{"uuid": A}, {"uuid": D}])
    assert text.startswith(f"there is no card {D}, which llama_server_gpus names.")
    assert f"but in the rig: {B}." in text
    assert "no card of NVIDIA that the driver shows is at 0000:0b:00.0" in fault(
        A, listed=[{"pci": "0b:00.0"}]
    )
    assert "number 2 in the order of their addresses" in fault(A, B, listed=[{"pci_order": 2}])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("GPU-1", "entry 1 of llama_server_gpus is 'GPU-1'; write each card as `- uuid: GPU-...`"),
        ({"slots": 2}, "names its card by nothing; give one of uuid"),
        ({"gpus": [A], "pci": "01:00.0"}, "names its card by pci and gpus; give one of uuid"),
        ({"gpus": []}, "gpus is []; give a list of cards"),
        ({"gpus": A}, f"gpus is '{A}'; give a list of cards"),
        ({"gpus": 2}, "gpus is 2; give a list of cards"),
        ({"gpus": [{"uuid": A}]}, "write each card by itself, as in [0, 1, '03:00.0']"),
        ({"gpus": [A, None]}, "gpus holds None"),
        ({"gpus": [A, "GPU-1"]}, "entry 1 of llama_server_gpus: GPU-1 is not the UUID of a GPU"),
        ({"gpus": [A, 180.0]}, "YAML has taken it for a number: put it into quotes"),
        ({"gpus": [A, True]}, "'True' is no PCI address like 0000:03:00.0"),
        ({"uuid": A, "pci": "01:00.0"}, "names its card by uuid and pci; give one of uuid"),
        ({"uuid": "GPU-1"}, "GPU-1 is not the UUID of a GPU"),
        ({"uuid": "0"}, "0 is not the UUID of a GPU"),
        ({"pci": "01:00"}, "'01:00' is no PCI address like 0000:03:00.0"),
        # What YAML makes of 03:00.0: a number to the base of 60.
        ({"pci": 180.0}, "YAML has taken it for a number: put it into quotes"),
        ({"pci_order": -1}, "pci_order is '-1'; cards are counted from 0"),
        ({"pci_order": True}, "pci_order is 'True'; cards are counted from 0"),
    ],
)
def test_an_entry_that_cannot_be_is_told(entry: object, message: str) -> None:
    assert message in fault(A, listed=[entry])


def test_each_card_has_one_backend() -> None:
    text = fault(A, B, listed=[{"uuid": A}, {"pci": "01:00.0"}])
    assert text == (
        f"llama_server_gpus must list each of the rig's GPUs once ({A} stands there twice,"
        " in entries 1 and 2): a card serves one backend"
    )


def test_on_the_cpu_a_list_says_how_many_there_are() -> None:
    listed = [{"uuid": "first"}, {"uuid": "second", "slots": 2}]
    assert uuids(looked=False, backend="cpu", listed=listed) == ["first", "second"]


def test_addresses_are_read_as_people_and_programs_write_them() -> None:
    assert address("00000000:0A:00.0") == "0000:0a:00.0"
    assert address("10000:01:00.0") == "10000:01:00.0"
    assert [address(text) for text in ("", "1:0.0", "0000:01:00.9", None)] == [None] * 4


def test_a_rig_says_what_its_models_are_or_why_it_cannot() -> None:
    results = [
        {"item": "a.gguf", "rc": 0, "stdout": '{"n_layers": 32}\r\n', "stderr": ""},
        {"item": "b.gguf", "rc": 3, "stdout": "b.gguf has\r\n no attention", "stderr": ""},
        {"item": "c.gguf", "rc": 1, "stdout": "", "stderr": ""},
    ]
    assert rig_shapes(results) == {
        "a.gguf": {"n_layers": 32},
        "b.gguf": "b.gguf has no attention",
        "c.gguf": "it cannot be read",
    }


@pytest.mark.parametrize(
    ("counted", "planned", "ram"),
    [
        (7_838, 0, 7_838),
        # The same modules under another kernel.
        (7_838, 7_853, 7_853),
        (7_853, 7_838, 7_838),
        # One more of 512 MiB, and half of them taken out.
        (8_360, 7_838, 8_360),
        (3_830, 7_838, 3_830),
    ],
)
def test_another_kernel_is_no_other_rig(counted: int, planned: int, ram: int) -> None:
    record = {"backends": [], "rig": {"ram_mib": planned, "cores": 2}} if planned else {}
    assert rig_ram(counted, record) == ram


def test_a_record_of_before_says_nothing_of_the_rig() -> None:
    assert rig_ram(7_838, {"backends": []}) == 7_838


# --- groups ------------------------------------------------------------------------------------


def test_a_group_has_its_cards_in_the_order_in_which_they_are_named() -> None:
    listed = [{"gpus": [2, A, "02:00.0"], "slots": 3}, {"pci_order": 3}]
    found = of(A, B, C, D, listed=listed)
    assert found["backends"] == [{"uuid": f"{C}+{A}+{B}", "slots": 3}, {"uuid": D}]
    assert (found["faults"], found["found"]) == ([], False)


def test_a_list_of_one_card_is_a_card() -> None:
    assert uuids(A, B, listed=[{"gpus": [B]}]) == [B]


@pytest.mark.parametrize(
    ("listed", "where"),
    [
        ([{"gpus": [A, B]}, {"uuid": B}], "in entries 1 and 2"),
        ([{"gpus": [A, B]}, {"gpus": [C, 1]}], "in entries 1 and 2"),
        ([{"gpus": [B, B]}], "in entry 1"),
    ],
)
def test_a_card_serves_one_backend(listed: Any, where: str) -> None:
    assert fault(A, B, C, listed=listed).endswith(
        f"({B} stands there twice, {where}): a card serves one backend"
    )


def test_a_card_of_a_group_that_is_not_there_is_told() -> None:
    assert fault(A, C, listed=[{"gpus": [A, B]}]).startswith(f"there is no card {B}, which")


def test_a_group_that_has_lost_a_card_keeps_it() -> None:
    deployed = {"0": f"{A}+{B}", "1": C}
    for named in ([A, B], [0, 1], ["01:00.0", "02:00.0"]):
        listed = [{"gpus": named}, {"uuid": C}]
        assert uuids(A, C, listed=listed, deployed=deployed) == [f"{A}+{B}", C]
    assert fault(A, C, listed=[{"gpus": [0, 1, 2]}], deployed=deployed).startswith(
        "no card of NVIDIA that the driver shows is at number 2 in the order"
    )


def test_cards_that_were_a_group_are_found_in_its_order() -> None:
    found = of(A, B, C, D, deployed={"0": f"{C}+{A}", "1": B})
    assert [one["uuid"] for one in found["backends"]] == [C, A, B, D]
    assert found["found"]


def test_a_card_stands_once_where_a_run_has_ended_amid_a_change() -> None:
    assert uuids(A, B, C, deployed={"0": f"{A}+{B}", "1": B, "2": C}) == [A, B, C]


def test_a_card_that_is_left_takes_a_lost_one_s_place_in_its_group() -> None:
    found = of(A, C, D, deployed={"0": f"{A}+{B}+{C}"})
    assert [one["uuid"] for one in found["backends"]] == [A, D, C]
    assert found["notes"] == [f"rig1: {D} takes the place of {B}"]


def test_a_card_of_another_kind_takes_no_place_in_a_group() -> None:
    def shown(of_d: str) -> list[dict[str, str]]:
        kinds = {A: "6.1", C: "6.1", D: of_d}
        return [one | {"compute_cap": kinds[one["uuid"]]} for one in seen(A, C, D)]

    deployed = {"0": f"{A}+{B}", "1": C}
    bus = on_the_bus(A, C, D)
    assert uuids(seen=shown("8.6"), bus=bus, deployed=deployed) == [A, B, C, D]
    assert uuids(seen=shown("6.1"), bus=bus, deployed=deployed) == [A, D, C]
    # The only card of a backend is replaced by any.
    alone = {"0": A, "1": B, "2": C}
    assert uuids(seen=shown("8.6"), bus=bus, deployed=alone) == [A, D, C]


def test_a_card_that_is_replaced_is_taken_by_its_place_in_the_order() -> None:
    places = {**PLACES, D: PLACES[B]}
    shown = [{"uuid": uuid, "pci.bus_id": places[uuid]} for uuid in (A, D, C)]
    bus = on_the_bus(A, B, C)
    alone: list[Any] = [{"pci_order": n} for n in range(3)]
    assert uuids(seen=shown, bus=bus, listed=alone, deployed={"0": A, "1": B, "2": C}) == [A, D, C]
    listed = [{"gpus": [0, 1]}, {"pci_order": 2}]
    deployed = {"0": f"{A}+{B}", "1": C}
    assert uuids(seen=shown, bus=bus, listed=listed, deployed=deployed) == [f"{A}+{D}", C]
    # One that has only moved up takes nobody's place.
    assert uuids(A, C, listed=alone, deployed={"0": A, "1": B, "2": C}) == [A, B, C]


def test_a_group_is_named_by_place_while_no_driver_answers() -> None:
    listed = [{"gpus": [0, 1]}]
    expected = ["PCI-0000:01:00.0+PCI-0000:02:00.0"]
    assert uuids(bus=on_the_bus(A, B), listed=listed) == expected


def test_the_cpu_backend_has_groups_too() -> None:
    listed = [{"gpus": ["a", "b"]}, {"uuid": "c"}]
    assert uuids(listed=listed, backend="cpu", looked=False) == ["a+b", "c"]
