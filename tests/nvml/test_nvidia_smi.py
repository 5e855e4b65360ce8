"""nvidia-smi for simulated cards: its words and exit codes."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.nvml.cards import Rig, p104, p106
from tests.nvml.nvidia_smi import FIELDS
from tests.nvml.simulated import CARDS, NVIDIA_SMI, environment

LOST = "GPU is lost.  Reboot the system to recover this GPU"


@dataclass(frozen=True)
class Said:
    code: int
    lines: list[str]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig([p106(), p104()]).save(tmp_path / "gpus.json")


def smi(rig: Rig, *words: str) -> Said:
    assert rig.path
    done = subprocess.run(
        [NVIDIA_SMI, *words],
        env=environment(rig.path),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    return Said(done.returncode, done.stdout.rstrip("\n").split("\n"))


def query(rig: Rig, fields: str, layout: str = "csv,noheader", *words: str) -> list[str]:
    said = smi(rig, f"--query-gpu={fields}", f"--format={layout}", *words)
    assert said.code == 0, said
    return said.lines


def test_cards_are_listed_by_uuid(rig: Rig) -> None:
    assert smi(rig, "-L") == Said(
        0,
        [
            f"GPU 0: NVIDIA P106-100 (UUID: {rig.cards[0]['uuid']})",
            f"GPU 1: NVIDIA P104-100 (UUID: {rig.cards[1]['uuid']})",
        ],
    )


def test_a_query_has_a_head_and_units_unless_told_otherwise(rig: Rig) -> None:
    fields = "index,name,memory.total,power.limit,temperature.gpu,clocks.gr,serial,compute_cap"
    cells = [
        ["0", "NVIDIA P106-100", "6144 MiB", "120.00 W", "35", "139 MHz", "[N/A]", "6.1"],
        ["1", "NVIDIA P104-100", "8192 MiB", "180.00 W", "35", "139 MHz", "[N/A]", "6.1"],
    ]
    head = (
        "index, name, memory.total [MiB], power.limit [W], temperature.gpu,"
        " clocks.current.graphics [MHz], serial, compute_cap"
    )
    lines = [", ".join(row) for row in cells]
    assert query(rig, fields, "csv") == [head, *lines]
    assert query(rig, fields, "csv,noheader") == lines
    assert query(rig, fields, "csv,noheader,nounits", "-i", "0") == [
        "0, NVIDIA P106-100, 6144, 120.00, 35, 139, [N/A], 6.1"
    ]


def test_every_field_answers(rig: Rig) -> None:
    lines = query(rig, ",".join(FIELDS), "csv,noheader,nounits")
    for line in lines:
        cells = dict(zip(FIELDS, line.split(", "), strict=True))
        missing = {name for name, cell in cells.items() if cell.startswith("[")}
        assert missing == {
            "serial",
            "ecc.mode.current",
            "ecc.mode.pending",
            "mig.mode.current",
            "temperature.memory",
        }
        assert cells["pcie.link.gen.current"] == cells["pcie.link.width.current"] == "1"
        assert cells["clocks_event_reasons.gpu_idle"] == "Active"


@pytest.mark.parametrize("which", ["1", "00000000:02:00.0", "02:00.0", "UUID"])
def test_a_card_is_chosen_by_index_address_or_uuid(rig: Rig, which: str) -> None:
    which = which.replace("UUID", rig.cards[1]["uuid"])
    assert query(rig, "index,name", "csv,noheader", "-i", which) == ["1, NVIDIA P104-100"]


def test_refused_fields_are_not_available(rig: Rig) -> None:
    rig.refuse(0, "fan_speed", "power_draw_w")
    rig.refuse(0, "temperature", error=999)
    assert query(rig, "fan.speed,power.draw,temperature.gpu") == [
        "[N/A], [N/A], [Unknown Error]",
        "38 %, 6.31 W, 35",
    ]


def test_a_lost_card_costs_a_line_and_the_others_are_shown(rig: Rig) -> None:
    rig.lose(0)
    line = f"Unable to determine the device handle for GPU0: 0000:01:00.0: {LOST}"
    assert smi(rig, "-L").lines[0] == line
    assert query(rig, "index") == [line, "1"]
    assert smi(rig).code == 0
    assert smi(rig, "-L", "-i", "0") == Said(6, [line, "No devices were found"])
    rig.lose(1)
    assert smi(rig).lines[-1] == "No devices were found"
    assert smi(rig).code == 6


def test_the_table(rig: Rig) -> None:
    rig.set(0, persistence_mode=True, temperature=83, utilization_gpu=100, power_draw_w=119.7)
    rig.refuse(1, "fan_speed", "power_draw_w")
    rig.process(1, 4711, "/opt/heartcode/llama.cpp/current/bin/llama-server", 4700)
    said = smi(rig)
    assert said.code == 0
    assert {len(line) for line in said.lines[1:]} == {91, 89}, "all as wide as the real one"
    assert said.lines[2] == (
        "| NVIDIA-SMI 550.163.01             Driv"
        "er Version: 550.163.01     CUDA Version: 12.4     |"
    )
    assert said.lines[8:10] == [
        (
            "|   0  NVIDIA P106-100                On  "
            "|   00000000:01:00.0 Off |                  N/A |"
        ),
        (
            "| 38%   83C    P8            120W /  120W "
            "|       4MiB /   6144MiB |    100%      Default |"
        ),
    ]
    assert said.lines[12:14] == [
        (
            "|   1  NVIDIA P104-100                Off "
            "|   00000000:02:00.0 Off |                  N/A |"
        ),
        (
            "| N/A   35C    P8             N/A /  180W "
            "|    4704MiB /   8192MiB |      0%      Default |"
        ),
    ]
    assert said.lines[-2].split() == [
        *["|", "1", "N/A", "N/A", "4711", "C"],
        "/opt/heartcode/llama.cpp/current/bin/l",
        "4700MiB",
        "|",
    ]


def test_the_power_limit_is_set_within_the_card_s_limits(rig: Rig) -> None:
    said = smi(rig, "-i", "0", "-pl", "90")
    assert said.code == 0
    assert said.lines[0].startswith("Warning: persistence mode is disabled on device 00000000:01")
    assert said.lines[1:] == [
        "Power limit for GPU 00000000:01:00.0 was set to 90.00 W from 120.00 W.",
        "All done.",
    ]
    assert query(rig, "power.limit,enforced.power.limit") == [
        "90.00 W, 90.00 W",
        "180.00 W, 180.00 W",
    ]
    said = smi(rig, "-i", "0", "--power-limit=20")
    assert said == Said(
        2,
        [
            (
                "Provided power limit 20.00 W is not a valid power limit which should be between"
                " 60.00 W and 140.00 W for GPU 00000000:01:00.0"
            ),
            "Terminating early due to previous errors.",
        ],
    )


def test_what_cannot_be_set_is_said(rig: Rig) -> None:
    rig.refuse(0, "power_limit_w")
    said = smi(rig, "-i", "0", "-pl", "100")
    assert said.code == 3
    assert said.lines[0] == (
        "Changing power management limit is not supported in current scope for GPU:"
        " 00000000:01:00.0."
    )
    Path(f"{rig.path}.settings").mkdir()
    said = smi(rig, "-i", "1", "-pl", "100")
    assert said.code == 4
    assert "Insufficient Permissions" in said.lines[0]


def test_persistence_is_switched(rig: Rig) -> None:
    address = "00000000:01:00.0"
    assert (
        smi(rig, "-i", "0", "-pm", "1").lines[0] == f"Enabled persistence mode for GPU {address}."
    )
    assert smi(rig, "-i", "0", "-pm", "ENABLED").lines == [
        f"Persistence mode is already Enabled for GPU {address}.",
        "All done.",
    ]
    assert query(rig, "persistence_mode") == ["Enabled", "Disabled"]


def test_no_driver_no_cards_and_wrong_words(rig: Rig) -> None:
    assert smi(rig, "--query-gpu=index,nonsense", "--format=csv") == Said(
        2, ['Field "nonsense" is not a valid field to query.']
    )
    assert smi(rig, "--query-gpu=index").code == 2
    assert smi(rig, "-q").code == 2
    assert smi(rig, "-i", "7", "-L") == Said(6, ["No devices were found"])
    rig.remove(0).remove(0)
    assert smi(rig) == Said(6, ["No devices were found"])
    rig.fail(18)
    assert smi(rig) == Said(18, ["Failed to initialize NVML: Driver/library version mismatch"])
    rig.fail()
    said = smi(rig)
    assert said.code == 9
    assert said.lines[0].startswith("NVIDIA-SMI has failed because it couldn't communicate with")


def test_versions(rig: Rig) -> None:
    assert smi(rig, "--version").lines == [
        "NVIDIA-SMI version  : 550.163.01",
        "NVML version        : 550.163",
        "DRIVER version      : 550.163.01",
        "CUDA Version        : 12.4",
    ]


# --- simulated-cards, the command of cards.py -----------------------------------------------------


def command(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CARDS, "--state", state, *words], capture_output=True, text=True, check=False
    )


def test_a_rig_is_made_and_changed_by_command(tmp_path: Path) -> None:
    state = tmp_path / "gpus.json"
    made = command(state, "make", "P104-100=GPU-0123-abcd", "P106-100", "P104-100-4GB")
    assert (made.returncode, made.stderr) == (0, "")
    rig = Rig.load(state)
    assert query(rig, "uuid,memory.total")[0] == "GPU-0123-abcd, 8192 MiB"
    assert query(rig, "memory.total") == ["8192 MiB", "6144 MiB", "4096 MiB"]
    for words in (
        ("set", "0", "temperature=95", "fan_speed=100"),
        ("refuse", "1", "power_draw_w"),
        ("xid", "1", "31"),
        ("lose", "2"),
    ):
        assert command(state, *words).returncode == 0
    lines = query(rig, "temperature.gpu,fan.speed,power.draw")
    assert lines[0].endswith(LOST)
    assert lines[1:] == ["95, 100 %, 6.31 W", "35, 38 %, [N/A]"]
    assert [event["xid"] for event in Rig.load(state).cards[1]["events"]] == [31]
    assert command(state, "restore", "2").returncode == 0
    assert command(state, "remove", "0").returncode == 0
    assert query(rig, "index,memory.total") == ["0, 6144 MiB", "1, 4096 MiB"]
    assert command(state, "show").stdout == state.read_text()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["make", "GTX-9000"], "'GTX-9000' is no model"),
        (["make", "P106-100=one"], "'one' is no UUID"),
        (["lose", "3"], "there is no card 3"),
        (["set", "0", "temperature"], "fields are set like this"),
    ],
)
def test_wrong_commands_change_nothing(tmp_path: Path, words: list[str], what: str) -> None:
    rig = Rig([p106()]).save(tmp_path / "gpus.json")
    assert rig.path
    before = rig.path.read_text()
    done = command(rig.path, *words)
    assert done.returncode == 1
    assert what in done.stderr
    assert rig.path.read_text() == before
