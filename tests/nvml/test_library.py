"""The simulated NVML, asked by the real pynvml."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml
import pytest

from tests.nvml.cards import MODELS, Rig, p106
from tests.nvml.simulated import DIRECTORY, build, environment

MIB = 2**20
PATIENCE_S = 20.0


def card(index: int) -> Any:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def temperature(handle: Any) -> int:
    degrees: int = pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
    return degrees


def in_thread(call: Callable[..., Any], *arguments: Any) -> Future[Any]:
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call, *arguments)
    pool.shutdown(wait=False)
    return future


def fields(index: int) -> dict[str, Any]:
    """What pynvml says of a card, by the name of its function."""
    handle, n = card(index), pynvml
    memory, memory_v2 = (
        n.nvmlDeviceGetMemoryInfo(handle),
        n.nvmlDeviceGetMemoryInfo(handle, n.nvmlMemory_v2),
    )
    utilization, pci = n.nvmlDeviceGetUtilizationRates(handle), n.nvmlDeviceGetPciInfo(handle)
    bar1 = n.nvmlDeviceGetBAR1MemoryInfo(handle)
    return {
        "name": n.nvmlDeviceGetName(handle),
        "uuid": n.nvmlDeviceGetUUID(handle),
        "index": n.nvmlDeviceGetIndex(handle),
        "minor": n.nvmlDeviceGetMinorNumber(handle),
        "brand": n.nvmlDeviceGetBrand(handle),
        "architecture": n.nvmlDeviceGetArchitecture(handle),
        "vbios": n.nvmlDeviceGetVbiosVersion(handle),
        "pci": (pci.domain, pci.bus, pci.device, pci.busId, pci.busIdLegacy),
        "pci ids": (pci.pciDeviceId, pci.pciSubSystemId),
        "capability": n.nvmlDeviceGetCudaComputeCapability(handle),
        "memory": (memory.total, memory.used, memory.free),
        "memory v2": (memory_v2.total, memory_v2.reserved, memory_v2.used, memory_v2.free),
        "bar1": (bar1.bar1Total, bar1.bar1Used, bar1.bar1Free),
        "temperature": temperature(handle),
        "shutdown": n.nvmlDeviceGetTemperatureThreshold(
            handle, n.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN
        ),
        "slowdown": n.nvmlDeviceGetTemperatureThreshold(
            handle, n.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        ),
        "power": n.nvmlDeviceGetPowerUsage(handle),
        "limit": n.nvmlDeviceGetPowerManagementLimit(handle),
        "default limit": n.nvmlDeviceGetPowerManagementDefaultLimit(handle),
        "enforced limit": n.nvmlDeviceGetEnforcedPowerLimit(handle),
        "limits": n.nvmlDeviceGetPowerManagementLimitConstraints(handle),
        "power managed": n.nvmlDeviceGetPowerManagementMode(handle),
        "utilization": (utilization.gpu, utilization.memory),
        "encoder": n.nvmlDeviceGetEncoderUtilization(handle)[0],
        "decoder": n.nvmlDeviceGetDecoderUtilization(handle)[0],
        "fans": n.nvmlDeviceGetNumFans(handle),
        "fan": (n.nvmlDeviceGetFanSpeed(handle), n.nvmlDeviceGetFanSpeed_v2(handle, 0)),
        "clocks": [n.nvmlDeviceGetClockInfo(handle, which) for which in range(4)],
        "most": [n.nvmlDeviceGetMaxClockInfo(handle, which) for which in range(4)],
        "pstate": (n.nvmlDeviceGetPerformanceState(handle), n.nvmlDeviceGetPowerState(handle)),
        "reasons": n.nvmlDeviceGetCurrentClocksEventReasons(handle),
        "old reasons": n.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        "link": (
            n.nvmlDeviceGetCurrPcieLinkGeneration(handle),
            n.nvmlDeviceGetCurrPcieLinkWidth(handle),
        ),
        "most link": (
            n.nvmlDeviceGetMaxPcieLinkGeneration(handle),
            n.nvmlDeviceGetMaxPcieLinkWidth(handle),
        ),
        "replays": n.nvmlDeviceGetPcieReplayCounter(handle),
        "throughput": [n.nvmlDeviceGetPcieThroughput(handle, which) for which in range(2)],
        "persistence": n.nvmlDeviceGetPersistenceMode(handle),
        "compute mode": n.nvmlDeviceGetComputeMode(handle),
        "display": (n.nvmlDeviceGetDisplayActive(handle), n.nvmlDeviceGetDisplayMode(handle)),
        "events": n.nvmlDeviceGetSupportedEventTypes(handle) & n.nvmlEventTypeXidCriticalError,
        "processes": n.nvmlDeviceGetComputeRunningProcesses(handle),
        "drawing": n.nvmlDeviceGetGraphicsRunningProcesses(handle),
    }


# --- What a card says of itself -------------------------------------------------------------------


def test_a_p106_is_described_as_its_state_says(rig: Rig) -> None:
    rig.set(0, temperature=61, power_draw_w=101.37, utilization_gpu=97, utilization_memory=88)
    rig.set(0, clock_event_reasons=0x20, pcie_replays=5, pcie_tx_kib_s=7000, pcie_rx_kib_s=9000)
    assert fields(0) == {
        "name": "NVIDIA P106-100",
        "uuid": rig.cards[0]["uuid"],
        "index": 0,
        "minor": 0,
        "brand": pynvml.NVML_BRAND_NVIDIA,
        "architecture": pynvml.NVML_DEVICE_ARCH_PASCAL,
        "vbios": "86.06.58.00.27",
        "pci": (0, 1, 0, "00000000:01:00.0", "0000:01:00.0"),
        "pci ids": (0x1C0710DE, 0x11C010DE),
        "capability": (6, 1),
        "memory": (6144 * MIB, 73 * MIB, 6071 * MIB),
        "memory v2": (6144 * MIB, 69 * MIB, 4 * MIB, 6071 * MIB),
        "bar1": (256 * MIB, 2 * MIB, 254 * MIB),
        "temperature": 61,
        "shutdown": 102,
        "slowdown": 99,
        "power": 101370,
        "limit": 120000,
        "default limit": 120000,
        "enforced limit": 120000,
        "limits": [60000, 140000],
        "power managed": 1,
        "utilization": (97, 88),
        "encoder": 0,
        "decoder": 0,
        "fans": 1,
        "fan": (38, 38),
        "clocks": [139, 139, 405, 544],
        "most": [1911, 1911, 4004, 1708],
        "pstate": (8, 8),
        "reasons": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
        "old reasons": pynvml.nvmlClocksThrottleReasonSwThermalSlowdown,
        "link": (1, 1),
        "most link": (1, 16),
        "replays": 5,
        "throughput": [7000, 9000],
        "persistence": 0,
        "compute mode": 0,
        "display": (0, 0),
        "events": pynvml.nvmlEventTypeXidCriticalError,
        "processes": [],
        "drawing": [],
    }


def test_both_sizes_of_p104_differ_from_it(rig: Rig) -> None:
    large, small = [fields(index) for index in range(1, len(rig.cards))]
    assert (large["name"], large["memory"][0], large["limit"]) == (
        "NVIDIA P104-100",
        8192 * MIB,
        180000,
    )
    assert (small["name"], small["memory"][0]) == ("NVIDIA P104-100", 4096 * MIB)


def test_versions(rig: Rig) -> None:
    assert pynvml.nvmlSystemGetDriverVersion() == "550.163.01"
    assert pynvml.nvmlSystemGetNVMLVersion() == "12.550.163.01"
    assert pynvml.nvmlSystemGetCudaDriverVersion() == 12040
    assert pynvml.nvmlSystemGetCudaDriverVersion_v2() == 12040
    assert rig.state["driver_version"] == "550.163.01"


@pytest.mark.parametrize("address", ["00000000:02:00.0", "0000:02:00.0", "02:00.0"])
def test_cards_are_found_by_uuid_and_address(rig: Rig, address: str) -> None:
    assert pynvml.nvmlDeviceGetCount() == 3
    by_uuid = pynvml.nvmlDeviceGetHandleByUUID(rig.cards[1]["uuid"])
    by_address = pynvml.nvmlDeviceGetHandleByPciBusId(address)
    assert pynvml.nvmlDeviceGetIndex(by_uuid) == pynvml.nvmlDeviceGetIndex(by_address) == 1


def test_what_is_not_there_is_not_found(rig: Rig) -> None:
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        card(len(rig.cards))
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-of-somebody-else")
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByPciBusId("0000:7f:00.0")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetHandleByPciBusId("the first one")


def test_what_pascal_lacks_is_not_supported(rig: Rig) -> None:
    assert "serial" not in rig.cards[0]
    for ask in (
        pynvml.nvmlDeviceGetSerial,
        pynvml.nvmlDeviceGetEccMode,
        pynvml.nvmlDeviceGetMigMode,
        pynvml.nvmlDeviceGetTotalEnergyConsumption,
    ):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            ask(card(0))


def test_functions_newer_than_the_driver_are_not_found(rig: Rig) -> None:
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetTemperatureV(card(0), pynvml.NVML_TEMPERATURE_GPU)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetMarginTemperature(card(len(rig.cards) - 1))


def test_processes_are_listed_with_their_memory(rig: Rig) -> None:
    for pid in range(1000, 1020):
        rig.process(1, pid, f"/opt/llama-server-{pid}", 100)
    found = pynvml.nvmlDeviceGetComputeRunningProcesses(card(1))
    assert [(p.pid, p.usedGpuMemory) for p in found] == [
        (pid, 100 * MIB) for pid in range(1000, 1020)
    ]
    assert pynvml.nvmlSystemGetProcessName(1007) == "/opt/llama-server-1007"
    assert pynvml.nvmlDeviceGetMemoryInfo(card(1), pynvml.nvmlMemory_v2).used == 2004 * MIB
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlSystemGetProcessName(1)


# --- What goes wrong ------------------------------------------------------------------------------


def test_a_refused_field_fails_alone(rig: Rig) -> None:
    rig.refuse(0, "power_draw_w", "fan_speed")
    for ask in (pynvml.nvmlDeviceGetPowerUsage, pynvml.nvmlDeviceGetFanSpeed):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            ask(card(0))
        assert ask(card(1)) > 0
    assert pynvml.nvmlDeviceGetNumFans(card(0)) == 0
    assert temperature(card(0)) == 35
    rig.set(0, power_draw_w=90.0)
    assert pynvml.nvmlDeviceGetPowerUsage(card(0)) == 90000


def test_any_error_can_be_given(rig: Rig) -> None:
    rig.refuse(0, "temperature", error=pynvml.NVML_ERROR_UNKNOWN)
    with pytest.raises(pynvml.NVMLError_Unknown):
        temperature(card(0))


def test_a_lost_card_answers_nothing_and_the_others_go_on(rig: Rig) -> None:
    held = card(0)
    rig.lose(0)
    assert pynvml.nvmlDeviceGetCount() == 3
    for ask in (
        temperature,
        pynvml.nvmlDeviceGetName,
        pynvml.nvmlDeviceGetSerial,
        pynvml.nvmlDeviceGetBrand,
        pynvml.nvmlDeviceGetIndex,
    ):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            ask(held)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        card(0)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetHandleByUUID(rig.cards[0]["uuid"])
    assert temperature(card(1)) == 35
    rig.restore(0)
    assert temperature(held) == 35


def test_a_removed_card_renumbers_the_others(rig: Rig) -> None:
    first, second = card(0), card(1)
    rig.remove(0)
    assert pynvml.nvmlDeviceGetCount() == 2
    assert pynvml.nvmlDeviceGetIndex(second) == 0
    assert pynvml.nvmlDeviceGetName(card(0)) == "NVIDIA P104-100"
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        temperature(first)


def test_a_hanging_call_holds_up_no_other_thread(rig: Rig) -> None:
    handles = [card(0), card(1)]
    rig.hang(0, "temperature")
    hanging = in_thread(temperature, handles[0])
    # Each of these would wait behind a lock that the hanging call held.
    for degrees in range(40, 60):
        rig.set(1, temperature=degrees)
        assert temperature(handles[1]) == degrees
    assert pynvml.nvmlDeviceGetFanSpeed(handles[0]) == 38
    assert not hanging.done()
    rig.set(0, temperature=71)
    assert hanging.result(PATIENCE_S) == 71


def test_a_card_can_hang_as_a_whole(rig: Rig) -> None:
    rig.hang(1)
    hanging = in_thread(card, 1)
    assert pynvml.nvmlDeviceGetName(card(0)) == "NVIDIA P106-100"
    assert not hanging.done()
    rig.lose(1)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        hanging.result(PATIENCE_S)


def test_a_slow_call_takes_its_time_and_answers(rig: Rig) -> None:
    rig.hang(0, "temperature", seconds=0.3)
    handle, began = card(0), time.monotonic()
    assert temperature(handle) == 35
    assert time.monotonic() - began >= 0.3


def test_a_change_is_seen_however_quickly_it_follows(rig: Rig) -> None:
    handle = card(0)
    for degrees in list(range(20, 99)) * 5:  # equal lengths, inodes used again, equal times
        rig.set(0, temperature=degrees)
        assert temperature(handle) == degrees


# --- Events ---------------------------------------------------------------------------------------


class Watch:
    """An event set with some cards in it."""

    def __init__(self, *indexes: int) -> None:
        self.events = pynvml.nvmlEventSetCreate()
        for index in indexes:
            pynvml.nvmlDeviceRegisterEvents(
                card(index), pynvml.nvmlEventTypeXidCriticalError, self.events
            )

    def wait(self, timeout_ms: int = int(PATIENCE_S * 1000)) -> tuple[int, int]:
        """Give back the index of the card and the Xid."""
        data = pynvml.nvmlEventSetWait_v2(self.events, timeout_ms)
        assert data.eventType == pynvml.nvmlEventTypeXidCriticalError
        return pynvml.nvmlDeviceGetIndex(data.device), data.eventData

    def free(self) -> None:
        pynvml.nvmlEventSetFree(self.events)


def test_an_xid_wakes_a_waiting_thread(rig: Rig) -> None:
    watch = Watch(0, 1)
    waiting = in_thread(watch.wait)
    with pytest.raises(TimeoutError):
        waiting.result(0.1)
    rig.xid(1, 31)
    assert waiting.result(PATIENCE_S) == (1, 31)
    watch.free()


def test_xids_come_in_their_order_once_and_not_from_before(rig: Rig) -> None:
    rig.xid(0, 13)
    watch = Watch(0, 1)
    rig.xid(0, 31).xid(0, 43).xid(2, 45)
    assert [watch.wait(), watch.wait()] == [(0, 31), (0, 43)]
    with pytest.raises(pynvml.NVMLError_Timeout):
        watch.wait(50)
    rig.set(0, events=[])
    rig.xid(0, 62)
    assert watch.wait() == (0, 62)
    watch.free()


def test_a_card_that_falls_off_the_bus_reports_xid_79(rig: Rig) -> None:
    watch = Watch(0)
    rig.lose(0)
    data = pynvml.nvmlEventSetWait_v2(watch.events, 5000)
    assert data.eventData == 79
    watch.free()


def test_cards_may_refuse_events(rig: Rig) -> None:
    rig.refuse(0, "events")
    events = pynvml.nvmlEventSetCreate()
    for index, types in ((0, pynvml.nvmlEventTypeXidCriticalError), (1, 1 << 40)):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            pynvml.nvmlDeviceRegisterEvents(card(index), types, events)
    pynvml.nvmlEventSetFree(events)


# --- Settings -------------------------------------------------------------------------------------


def test_settings_are_kept_for_other_programs_until_a_reboot(rig: Rig, library: Path) -> None:
    assert rig.path
    pynvml.nvmlDeviceSetPowerManagementLimit(card(0), 90000)
    pynvml.nvmlDeviceSetPowerManagementLimit(card(0), 95500)
    pynvml.nvmlDeviceSetPersistenceMode(card(1), 1)
    code = (
        "import pynvml as n; n.nvmlInit(); a, b = map(n.nvmlDeviceGetHandleByIndex, range(2));"
        "print(*[f(x) for x in (a, b) for f in"
        " (n.nvmlDeviceGetEnforcedPowerLimit, n.nvmlDeviceGetPersistenceMode)])"
    )
    command = [sys.executable, "-c", code]
    env = environment(rig.path, library)
    said = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    assert said.split() == ["95500", "0", "180000", "1"]
    Path(f"{rig.path}.settings").unlink()
    assert pynvml.nvmlDeviceGetPowerManagementLimit(card(0)) == 120000


def test_a_card_that_was_lost_has_forgotten_its_settings(rig: Rig) -> None:
    for index in (0, 1):
        pynvml.nvmlDeviceSetPersistenceMode(card(index), 1)
    pynvml.nvmlDeviceSetPowerManagementLimit(card(0), 90000)
    rig.lose(0).restore(0)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(card(0)) == 120000
    assert [pynvml.nvmlDeviceGetPersistenceMode(card(index)) for index in (0, 1)] == [0, 1]


def test_settings_beyond_a_card_s_limits_are_refused(rig: Rig) -> None:
    for milliwatts in (59999, 140001):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            pynvml.nvmlDeviceSetPowerManagementLimit(card(0), milliwatts)
    rig.refuse(0, "power_limit_w")
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceSetPowerManagementLimit(card(0), 90000)


def test_who_may_not_write_settings_has_no_permission(rig: Rig) -> None:
    Path(f"{rig.path}.settings").mkdir()
    with pytest.raises(pynvml.NVMLError_NoPermission):
        pynvml.nvmlDeviceSetPowerManagementLimit(card(0), 90000)
    assert pynvml.nvmlDeviceGetPowerManagementLimit(card(0)) == 120000


# --- The library and its file ---------------------------------------------------------------------


def test_nothing_is_answered_before_init_and_after_shutdown(rig: Rig) -> None:
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()
    assert pynvml.nvmlDeviceGetCount() == len(rig.cards)
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()


def test_a_handle_that_is_none_is_refused(rig: Rig) -> None:
    handle = pynvml.c_nvmlDevice_t()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetName(handle)
    assert rig.cards


def test_no_state_means_no_driver(state: Path) -> None:
    assert not state.exists()
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlInit()


def test_init_can_fail(state: Path) -> None:
    rig = Rig([p106()]).save(state).fail(pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with pytest.raises(pynvml.NVMLError_LibRmVersionMismatch):
        pynvml.nvmlInit()
    del rig.state["init"]
    rig.save()
    pynvml.nvmlInit()
    pynvml.nvmlShutdown()


def test_names_may_be_in_any_script(rig: Rig) -> None:
    name = "P106 é\u4e2d\U0001f525"
    rig.set(0, name=name)
    assert pynvml.nvmlDeviceGetName(card(0)) == name
    assert rig.path
    rig.path.write_text(json.dumps(rig.state, ensure_ascii=False))
    assert pynvml.nvmlDeviceGetName(card(0)) == name
    rig.path.write_bytes(json.dumps(rig.state).encode().replace(b"P106", b"P106\xed\xa0\x80"))
    with pytest.raises(pynvml.NVMLError_Unknown):
        card(0)
    rig.save()


def spoilt(change: Callable[[dict[str, Any]], Any]) -> str:
    state = Rig([p106(), p106()]).state
    change(state)
    return json.dumps(state)


MALFORMED = {
    "": "line 1: the text ends too early",
    "{": "line 1: a key is missing",
    '{"cards": [], "cards": []}': 'line 1: the key "cards" stands there twice',
    '{\n"cards": [1,\n2}': "line 3: a comma or ']' is missing",
    '{"cards": 01}': "line 1: not a number",
    "[" * 40: "line 1: nested more than 16 deep",
    '"\\ud800"': "line 1: a string has an unknown escape",
    "null null": "line 1: more text behind the end",
    "[]": "the state is not an object",
    "{}": 'the state has no "driver_version"',
    spoilt(lambda s: s.update(gpus=[])): 'the state has a field "gpus" that is not simulated',
    spoilt(lambda s: s["cards"][1].update(temprature=1)): 'card 1 has a field "temprature"',
    spoilt(lambda s: s["cards"][1].update(temperature=-1)): 'card 1: "temperature" is not what',
    spoilt(lambda s: s["cards"][1].update(temperature=1.5)): 'card 1: "temperature" is not what',
    spoilt(lambda s: s["cards"][0].update(temperature={})): 'card 0: "temperature" is not what',
    spoilt(lambda s: s["cards"][0].update(temperature={"hang_s": 1})): 'card 0: "temperature" is',
    spoilt(lambda s: s["cards"][0].update(uuid={"error": 3})): 'card 0: "uuid" is not what',
    spoilt(lambda s: s["cards"][0].update(events=[{"xid": 79}])): 'card 0: "events" is not what',
    spoilt(lambda s: s["cards"][0].pop("name")): 'card 0 has no "name"',
    spoilt(lambda s: s["cards"].append(s["cards"][0])): "card 2 has the uuid of another card",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_a_malformed_state_is_named_and_no_crash(
    rig: Rig, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    handle = card(0)
    assert rig.path
    rig.path.write_text(text)
    for ask in (pynvml.nvmlDeviceGetCount, lambda: temperature(handle), pynvml.nvmlInit):
        with pytest.raises(pynvml.NVMLError_Unknown):
            ask()
    said = capfd.readouterr().err
    assert said.startswith(f"simulated NVML: {rig.path}: {MALFORMED[text]}")
    assert said.count("\n") == 1, "it is said once, not at every call"
    rig.save()
    assert temperature(handle) == 35


def test_no_change_of_a_byte_makes_it_crash(rig: Rig) -> None:
    """With sanitizers (below) this also finds what would not crash."""
    assert rig.path
    chance = random.Random(1)
    rig.process(0, 7, "llama-server", 5).hang(2, "temperature", seconds=0.0).xid(0, 31)
    text, broken = json.dumps(rig.state).encode(), 0
    for _ in range(400):
        bytes_ = bytearray(text)
        for _ in range(chance.choice((1, 1, 1, 5))):
            at = chance.randrange(len(bytes_))
            change = chance.choice((b"", b'"', b"{", b"}", b"\\", b"9", b",", b"\0", b"\xff"))
            bytes_[at : at + chance.randrange(2)] = change
        rig.path.write_bytes(bytes_)
        with suppress(pynvml.NVMLError):
            for index in range(pynvml.nvmlDeviceGetCount()):
                fields(index)
            continue
        broken += 1
    assert broken > 100
    rig.save()


def test_threads_may_ask_while_the_state_changes(rig: Rig) -> None:
    handles, done = [card(0), card(1), card(2)], threading.Event()

    def ask() -> int:
        asked = 0
        while not done.is_set():
            assert temperature(handles[asked % 3]) in range(30, 90)
            asked += 1
        return asked

    asking = [in_thread(ask) for _ in range(4)]
    for degrees in range(30, 90):
        rig.set(degrees % 3, temperature=degrees)
    done.set()
    assert all(future.result(PATIENCE_S) > 0 for future in asking)


def test_it_runs_on_debian_12_and_needs_the_c_library_alone() -> None:
    said = subprocess.run(
        ["readelf", "--dynamic", "--version-info", "--wide", build()],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in said.splitlines() if "(NEEDED)" in line]
    assert needed == ["libc.so.6"]
    versions = {
        tuple(map(int, word.removeprefix("GLIBC_").split(".")))
        for word in said.split()
        if word.startswith("GLIBC_2")
    }
    assert versions
    assert max(versions) <= (2, 36)


@pytest.mark.ci
@pytest.mark.skipif("SIMULATED_NVML" in os.environ, reason="this is the sanitized run")
def test_the_same_with_sanitizers() -> None:
    """Runs the tests of this file again, with a library that ends at the first wrong access."""
    flags = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    library = build(DIRECTORY / "build/sanitized", flags=flags)
    preload = [
        subprocess.run(
            ["gcc", f"-print-file-name={name}"], check=True, capture_output=True, text=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=os.environ
        | {
            "SIMULATED_NVML": str(library),
            "LD_PRELOAD": ":".join(preload),
            # Python itself leaves much behind.
            "ASAN_OPTIONS": "detect_leaks=0",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_every_model_is_one_that_the_library_takes(rig: Rig) -> None:
    Rig(make() for make in MODELS.values()).save(rig.path)
    assert pynvml.nvmlDeviceGetCount() == len(MODELS)
    assert [fields(index)["capability"] for index in range(3)] == [(6, 1)] * 3
