"""The cards' metrics: the real exporter and pynvml, in every fault of the simulated NVML."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from heartcode.exporter.readings import CARD, GPU_FIELDS, GPU_READ_ERROR_REASONS, READINGS

from tests.integration.processes import APP, Exporter, free_port, wait_until
from tests.nvml.cards import Rig, p104, p106
from tests.nvml.simulated import environment

#: Expected of the rig's inventory, but not among its cards.
ABSENT = "GPU-1b8710de-0000-4000-8000-00000000abcd"
INTERVAL_S, TIMEOUT_S = 0.1, 1.0


class Host:
    """A P106-100 and a P104-100, and a third card that was never there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rig = Rig([p106(), p104()]).save(directory / "gpus.json")
        self.uuids = [card["uuid"] for card in self.rig.cards] + [ABSENT]
        self.env = environment(directory / "gpus.json") | {
            "HEARTCODE_BACKENDS": "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3",
            "HEARTCODE_GPU_UUIDS": ",".join(self.uuids),
            "HEARTCODE_GPU_INTERVAL_S": str(INTERVAL_S),
            "HEARTCODE_GPU_TIMEOUT_S": str(TIMEOUT_S),
            "HEARTCODE_LISTEN": "127.0.0.1",
            "HEARTCODE_METRICS_DIR": str(directory / "metrics"),
            "HEARTCODE_RUN_DIR": str(directory),
            "METRICS_PORT": str(free_port()),
        }
        self.exporter: Exporter

    def value(self, name: str, card: int, **labels: str) -> float | None:
        """One series of a card; None if there is none."""
        found = self.exporter.samples(name, uuid=self.uuids[card], **labels)
        assert len(found) <= 1, found
        return found[0].value if found else None

    def up(self) -> list[float | None]:
        return [self.value("gpu_up", card) for card in range(3)]

    def errors(self, card: int, reason: str) -> float:
        return self.value("gpu_read_errors_total", card, reason=reason) or 0

    def log(self) -> str:
        return self.exporter.stderr.read_text()


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator[Callable[..., Host]]:
    with ExitStack() as stack:

        def start(prepare: Callable[[Host], object] = lambda _: None) -> Host:
            host = Host(tmp_path)
            prepare(host)
            host.exporter = Exporter(tmp_path, host.env)
            stack.callback(host.exporter.kill)
            return host

        yield start


@pytest.fixture
def host(start_host: Callable[..., Host]) -> Host:
    host = start_host()
    wait_until(lambda: host.up() == [1, 1, 0], "the cards are read")
    return host


def test_all_that_a_card_tells_is_told(host: Host) -> None:
    host.rig.set(
        0,
        memory_used_mib=4900,
        temperature=71,
        power_draw_w=118.5,
        utilization_gpu=97,
        fan_speed=60,
        clock_sm_mhz=1708,
        clock_event_reasons=4 | 0x20,
        pcie_width=4,
        pcie_replays=7,
    )
    wait_until(lambda: host.value("gpu_temperature_celsius", 0) == 71, "the new values are there")
    mib = 1 << 20
    expected = {
        "gpu_memory_used_bytes": (4900 + 69) * mib,
        "gpu_memory_total_bytes": 6144 * mib,
        "gpu_power_watts": 118.5,
        "gpu_power_limit_watts": 120,
        "gpu_utilization_ratio": 0.97,
        "gpu_fan_speed_ratio": 0.6,
        "gpu_pcie_link_generation": 1,
        "gpu_pcie_link_generation_max": 1,
        "gpu_pcie_link_width": 4,
        "gpu_pcie_link_width_max": 16,
        "gpu_pcie_replays_total": 7,
    }
    told = {name: host.value(name, 0) for name in expected}
    assert told == pytest.approx(expected)
    assert host.value("gpu_temperature_limit_celsius", 0, limit="slowdown") == 99
    assert host.value("gpu_temperature_limit_celsius", 0, limit="shutdown") == 102
    assert host.value("gpu_clock_hertz", 0, clock="sm") == 1708e6
    assert host.value("gpu_clock_max_hertz", 0, clock="memory") == 4004e6
    throttled = host.exporter.samples("gpu_throttled", uuid=host.uuids[0])
    held_back = {sample.labels["reason"] for sample in throttled if sample.value}
    assert held_back == {"sw_power_cap", "sw_thermal"}
    assert "gpu_idle" not in {sample.labels["reason"] for sample in throttled}
    (info,) = host.exporter.samples("gpu_info", gpu="0")
    assert info.labels == {
        "gpu": "0",
        "uuid": host.uuids[0],
        "backend": "127.0.0.1:1",
        "name": "NVIDIA P106-100",
        "pci_bus_id": "00000000:01:00.0",
        "vbios": "86.06.58.00.27",
        "driver": "550.163.01",
    }

    def is_new() -> bool:
        age = host.value("gpu_reading_age_seconds", 0)
        return age is not None and 0 <= age < INTERVAL_S + TIMEOUT_S

    wait_until(is_new, "a reading is no older than the pause between two")


def test_every_field_is_told_of_a_whole_card_with_the_labels_of_the_reference(host: Host) -> None:
    for reading in READINGS:
        if reading.name.startswith("gpu_") and reading.name != "gpu_xid_errors_total":
            found = host.exporter.samples(reading.name, uuid=host.uuids[0])
            assert found, reading.name
            assert {frozenset(sample.labels) for sample in found} == {frozenset(reading.labels)}
    reasons = {
        sample.labels["reason"]
        for sample in host.exporter.samples("gpu_read_errors_total", uuid=host.uuids[0])
    }
    assert reasons == set(GPU_READ_ERROR_REASONS)


@pytest.mark.parametrize(
    ("refused", "lost"),
    [
        (("fan_speed",), {"gpu_fan_speed_ratio"}),
        (("power_draw_w", "power_limit_w"), {"gpu_power_watts", "gpu_power_limit_watts"}),
        (("pcie_replays", "clock_event_reasons"), {"gpu_pcie_replays_total", "gpu_throttled"}),
        (("memory_total_mib",), {"gpu_memory_used_bytes", "gpu_memory_total_bytes"}),
    ],
)
def test_what_a_card_does_not_support_is_left_out_and_nothing_else(
    host: Host, refused: tuple[str, ...], lost: set[str]
) -> None:
    host.rig.refuse(0, *refused)
    wait_until(lambda: host.value(min(lost), 0) is None, "the new reading is there")
    for name in GPU_FIELDS:
        assert bool(host.exporter.samples(name, uuid=host.uuids[0])) == (name not in lost), name
        assert host.exporter.samples(name, uuid=host.uuids[1])
    assert host.up() == [1, 1, 0]
    assert host.errors(0, "field") == 0


def test_a_field_that_fails_is_counted_and_named(host: Host) -> None:
    host.rig.refuse(1, "fan_speed", error=999)
    wait_until(lambda: host.errors(1, "field") > 1, "it is counted at each reading")
    assert host.value("gpu_fan_speed_ratio", 1) is None
    assert host.value("gpu_temperature_celsius", 1) == 35
    assert "reads, without {'fan speed': 'Unknown Error'}" in host.log()


def test_a_card_that_is_lost_is_down_and_not_forgotten(host: Host) -> None:
    host.rig.lose(0)
    wait_until(lambda: host.up() == [0, 1, 0], "it is seen")
    assert host.value("gpu_temperature_celsius", 0) is None
    assert host.errors(0, "lost") >= 1
    assert host.exporter.samples("gpu_info", uuid=host.uuids[0], name="NVIDIA P106-100")
    wait_until(lambda: host.value("gpu_xid_errors_total", 0, xid="79") == 1, "and why")
    assert host.value("gpu_temperature_celsius", 1) == 35
    host.rig.restore(0)
    wait_until(lambda: host.up() == [1, 1, 0], "it is back")
    assert host.value("gpu_temperature_celsius", 0) == 35
    assert host.value("gpu_xid_errors_total", 0, xid="79") == 1


def test_a_card_that_the_driver_does_not_list_is_down(host: Host) -> None:
    assert host.value("gpu_up", 2) == 0
    assert host.errors(2, "missing") >= 1
    assert host.value("gpu_reading_age_seconds", 2) is None
    (info,) = host.exporter.samples("gpu_info", gpu="2")
    assert [info.labels[name] for name in CARD] == ["2", ABSENT, "127.0.0.1:3"]
    assert info.labels["name"] == ""
    # One that a reboot did not find any more.
    host.rig.remove(0)
    wait_until(lambda: host.up() == [0, 1, 0], "it is seen")
    # The one that was expected is plugged in.
    host.rig.add(p104(uuid=ABSENT))
    wait_until(lambda: host.up() == [0, 1, 1], "it is found")


def test_a_call_that_hangs_holds_up_neither_a_scrape_nor_another_card(host: Host) -> None:
    host.rig.set(0, temperature=64)
    wait_until(lambda: host.value("gpu_temperature_celsius", 0) == 64, "it is read")
    host.rig.hang(0, "power_draw_w")
    wait_until(lambda: host.up() == [0, 1, 0], "it is seen")
    # The last that was known stays, and its age grows.
    assert host.value("gpu_temperature_celsius", 0) == 64
    ages = [host.value("gpu_reading_age_seconds", 0) or 0 for _ in range(2)]
    assert ages[1] > ages[0] > TIMEOUT_S
    host.rig.set(1, temperature=48)
    wait_until(lambda: host.value("gpu_temperature_celsius", 1) == 48, "the other is read")
    wait_until(lambda: host.errors(0, "hang") >= 2, "it is tried again")
    host.rig.set(0, power_draw_w=80.0)
    wait_until(lambda: host.up() == [1, 1, 0], "it answers again")
    assert host.value("gpu_power_watts", 0) == 80


def test_a_scrape_never_waits_for_the_driver(host: Host) -> None:
    for card in range(2):
        host.rig.hang(card)
    wait_until(lambda: host.up() == [0, 0, 0], "all hang")
    began = time.monotonic()
    for _ in range(10):
        assert host.value("gpu_temperature_celsius", 0) == 35
    assert time.monotonic() - began < 10 * TIMEOUT_S


def test_xids_are_counted_as_they_come(host: Host) -> None:
    assert host.value("gpu_xid_errors_total", 0, xid="31") is None
    for expected in (1, 2):
        host.rig.xid(0, 31)
        wait_until(lambda: host.value("gpu_xid_errors_total", 0, xid="31") == expected, "counted")  # noqa: B023
    host.rig.xid(1, 13)
    wait_until(lambda: host.value("gpu_xid_errors_total", 1, xid="13") == 1, "the other's")
    assert host.value("gpu_xid_errors_total", 0, xid="13") is None
    assert host.up() == [1, 1, 0]
    assert f"{host.uuids[0]}: Xid 31" in host.log()


def test_a_hot_card_says_so(host: Host) -> None:
    host.rig.set(1, temperature=97, clock_event_reasons=0x40)
    wait_until(lambda: host.value("gpu_temperature_celsius", 1) == 97, "it is hot")
    limit = host.value("gpu_temperature_limit_celsius", 1, limit="slowdown")
    assert limit is not None
    assert limit < 97
    assert host.value("gpu_throttled", 1, reason="hw_thermal") == 1


def test_without_a_driver_the_rest_is_told(start_host: Callable[..., Host]) -> None:
    host = start_host(lambda host: host.rig.fail())
    wait_until(lambda: host.errors(0, "driver") >= 1, "it is noticed")
    assert host.up() == [0, 0, 0]
    assert host.exporter.samples("heartcode_build_info")
    assert host.exporter.samples("backend_quarantined", backend="127.0.0.1:1")
    # It is installed.
    del host.rig.state["init"]
    host.rig.save()
    wait_until(lambda: host.up() == [1, 1, 0], "it is found")


def test_without_the_library_too(start_host: Callable[..., Host], tmp_path: Path) -> None:
    def hide(host: Host) -> None:
        host.env["LD_LIBRARY_PATH"] = str(tmp_path)

    host = start_host(hide)
    wait_until(lambda: host.errors(0, "driver") >= 1, "it is noticed")
    assert host.up() == [0, 0, 0]
    assert "NVML Shared Library Not Found" in host.log()


def test_a_host_without_cards_has_no_metrics_of_them(start_host: Callable[..., Host]) -> None:
    def use_the_cpu(host: Host) -> None:
        host.env["HEARTCODE_GPU_UUIDS"] = "cpu-0,cpu-1,cpu-2"

    host = start_host(use_the_cpu)
    assert host.exporter.samples("heartcode_build_info")
    assert not host.exporter.samples("gpu_up")


def children(pid: int) -> list[int]:
    """The children of a process, as the kernel has them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines())
        except (OSError, ValueError):
            continue  # it has just ended
        if int(lines["PPid"]) == pid and not lines["State"].startswith("Z"):
            found.append(int(status.parent.name))
    return found


@pytest.mark.ci
def test_the_reader_is_started_again_and_never_outlives_the_exporter(host: Host) -> None:
    (reader,) = children(host.exporter.process.pid)
    subprocess.run(["kill", "-KILL", str(reader)], check=True)
    wait_until(lambda: "ended with status -9; it is started again" in host.log(), "it is noticed")
    wait_until(lambda: children(host.exporter.process.pid) not in ([], [reader]), "a new one runs")
    wait_until(lambda: host.up() == [1, 1, 0], "the cards are read again")
    # Also while a card hangs.
    host.rig.hang(0)
    wait_until(lambda: host.up() == [0, 1, 0], "it hangs")
    (reader,) = children(host.exporter.process.pid)
    processes = [reader, *children(reader)]
    assert len(processes) >= 2
    assert host.exporter.stop() == 0
    host.rig.restore(0)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes), "all are gone")


def test_the_reader_is_a_program_for_people_too(host: Host) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "heartcode.exporter.gpu_reader", host.uuids[1]],
        env=host.env,
        cwd=APP,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout
        told = json.loads(reader.stdout.readline())
        assert told["uuid"] == host.uuids[1]
        assert ["gpu_temperature_celsius", "", 35] in told["read"]["series"]
        assert reader.stdin
        reader.stdin.close()
        assert reader.wait(30) == 0
