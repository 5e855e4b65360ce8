#!/usr/bin/env python3
"""nvidia-smi for simulated cards: it asks libnvidia-ml.so.1, as the real one does.

It simulates what roles, scripts and people use of driver 550's: the table, `-L`, `--version`,
`--query-gpu=... --format=csv[,noheader][,nounits]`, `-pl`, `-pm`, and `-i` with each; the texts of
errors and the exit codes of its manual (2 wrong usage, 3 not available, 4 no permission, 6 no such
device, 9 no driver). As there, errors go to the standard output, and a card without a handle costs
a line, not the lines of the others. What is not simulated (-q, XML, loops, ...) is refused. The
words for wrong usage are not the real one's, and none of it was held against a real P106 or P104.
Needs nothing but Python and that library.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION = 0, 2, 3, 4
NOT_FOUND, DRIVER_NOT_LOADED, GPU_IS_LOST = 6, 9, 15
VERSION_MISMATCH = 18
TEXT_SIZE = 96
MIB = 2**20
_WIDTHS = (41, 24, 22)

_NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    " Make sure that the latest NVIDIA driver is installed and running.\n"
)
_NOT_PERSISTENT = (
    "Warning: persistence mode is disabled on device {}. See the Known Issues section of the"
    " nvidia-smi(1) man page for more information. Run with [--help | -h] switch to get more"
    " information on how to enable persistence mode."
)


class NvmlError(Exception):
    """NVML answered with an error."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class EndError(Exception):
    """Nothing more to do: what to print, and the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.text, self.code = text, code


class Nvml:
    """The library, called by name."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            raise EndError(
                "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure"
                " that the NVIDIA Display Driver is properly installed and present in your"
                " system.\nPlease also try adding directory that contains libnvidia-ml.so to your"
                " system PATH.",
                12,
            ) from None
        self._library.nvmlErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; anything but success is an NvmlError."""
        code = getattr(self._library, name)(*arguments)
        if code != SUCCESS:
            raise NvmlError(code)

    def text(self, name: str, *arguments: Any) -> str:
        """Call a function that fills a buffer."""
        buffer = ctypes.create_string_buffer(TEXT_SIZE)
        self.call(name, *arguments, buffer, ctypes.c_uint(TEXT_SIZE))
        return buffer.value.decode()

    def numbers(self, name: str, *arguments: Any, count: int = 1, kind: Any = ctypes.c_uint) -> Any:
        """Call a function that fills `count` numbers; gives the one, or all of them."""
        values = [kind() for _ in range(count)]
        self.call(name, *arguments, *(ctypes.byref(value) for value in values))
        return values[0].value if count == 1 else [value.value for value in values]

    def words(self, code: int) -> str:
        """What NVML calls an error; the real nvidia-smi adds what to do about a lost card."""
        if code == GPU_IS_LOST:
            return "GPU is lost.  Reboot the system to recover this GPU"
        words: bytes = self._library.nvmlErrorString(code)
        return words.decode()


class _Pci(ctypes.Structure):
    _fields_ = [
        ("legacy", ctypes.c_char * 16),
        *((name, ctypes.c_uint) for name in ("domain", "bus", "device", "id", "subsystem")),
        ("address", ctypes.c_char * 32),
    ]


class _Memory(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint),
        *((name, ctypes.c_ulonglong) for name in ("total", "reserved", "free", "used")),
    ]


@dataclass(frozen=True)
class Card:
    """One card that has a handle."""

    nvml: Nvml
    index: int
    handle: ctypes.c_void_p

    def text(self, function: str) -> str:
        """Ask `nvmlDevice...` for a text."""
        return self.nvml.text(f"nvmlDevice{function}", self.handle)

    def number(self, function: str, *arguments: int) -> int:
        """Ask `nvmlDevice...` for a number."""
        given = [ctypes.c_uint(argument) for argument in arguments]
        number: int = self.nvml.numbers(f"nvmlDevice{function}", self.handle, *given)
        return number

    def pair(self, function: str, kind: Any = ctypes.c_uint) -> list[int]:
        """Ask `nvmlDevice...` for two numbers."""
        pair: list[int] = self.nvml.numbers(
            f"nvmlDevice{function}", self.handle, count=2, kind=kind
        )
        return pair

    def pci(self) -> _Pci:
        """Where the card is plugged in."""
        pci = _Pci()
        self.nvml.call("nvmlDeviceGetPciInfo_v3", self.handle, ctypes.byref(pci))
        return pci

    def address(self) -> str:
        """Its PCI address, domain and all."""
        address: bytes = self.pci().address
        return address.decode()

    def memory_mib(self, part: str) -> int:
        """A part of the memory: total, reserved, free or used."""
        memory = _Memory(version=2 << 24 | ctypes.sizeof(_Memory))
        self.nvml.call("nvmlDeviceGetMemoryInfo_v2", self.handle, ctypes.byref(memory))
        size: int = getattr(memory, part)
        return size // MIB

    def utilization(self, part: int) -> int:
        """Percent of time in which the GPU (0) or its memory (1) was busy."""
        both = (ctypes.c_uint * 2)()
        self.nvml.call("nvmlDeviceGetUtilizationRates", self.handle, ctypes.byref(both))
        return both[part]

    def slowed(self) -> int:
        """Bits of what slows the clocks."""
        bits: int = self.nvml.numbers(
            "nvmlDeviceGetCurrentClocksEventReasons", self.handle, kind=ctypes.c_ulonglong
        )
        return bits


# --- The fields of --query-gpu --------------------------------------------------------------------

Read = Callable[[Card], object]


@dataclass(frozen=True)
class Field:
    """A column: its full name, its unit and how it is read."""

    name: str
    unit: str
    read: Read

    @property
    def title(self) -> str:
        """The column's head."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def cell(self, card: Card, *, units: bool) -> str:
        """What stands in a card's line; what the card refuses has its own words."""
        try:
            value = self.read(card)
        except NvmlError as failure:
            known = {NOT_SUPPORTED: "[N/A]", GPU_IS_LOST: "[GPU is lost]"}
            return known.get(failure.code, "[Unknown Error]")
        return f"{value} {self.unit}" if units and self.unit else str(value)


def _number(function: str, *arguments: int) -> Read:
    return lambda card: card.number(function, *arguments)


def _watts(function: str) -> Read:
    return lambda card: f"{card.number(function) / 1000:.2f}"


def _limit(which: int) -> Read:
    function = "GetPowerManagementLimitConstraints"
    return lambda card: f"{card.pair(function)[which] / 1000:.2f}"


def _memory(part: str) -> Read:
    return lambda card: card.memory_mib(part)


def _switch(function: str) -> Read:
    return lambda card: "Enabled" if card.number(function) else "Disabled"


def _reason(bit: int) -> Read:
    return lambda card: "Active" if card.slowed() & bit else "Not Active"


def _refused(function: str) -> Read:
    return lambda card: card.pair(function)


def _hex(part: str, digits: int) -> Read:
    return lambda card: f"0x{getattr(card.pci(), part):0{digits}X}"


def _system(function: str) -> Read:
    return lambda card: card.nvml.text(function)


def _unknown(card: Card) -> NoReturn:
    card.address()  # a lost card says that it is lost
    raise NvmlError(NOT_SUPPORTED)


_COMPUTE_MODES = ("Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process")
_REASONS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
}
_CLOCKS = {"graphics": 0, "sm": 1, "memory": 2, "video": 3}

_TABLE = (
    Field("timestamp", "", lambda _: f"{datetime.datetime.now():%Y/%m/%d %H:%M:%S.%f}"[:-3]),  # noqa: DTZ005 (the host's own time is what it prints)
    Field("driver_version", "", _system("nvmlSystemGetDriverVersion")),
    Field("count", "", lambda card: card.nvml.numbers("nvmlDeviceGetCount_v2")),
    Field("name", "", lambda card: card.text("GetName")),
    Field("serial", "", lambda card: card.text("GetSerial")),
    Field("uuid", "", lambda card: card.text("GetUUID")),
    Field("index", "", _number("GetIndex")),
    Field("pci.bus_id", "", Card.address),
    Field("pci.domain", "", _hex("domain", 4)),
    Field("pci.bus", "", _hex("bus", 2)),
    Field("pci.device", "", _hex("device", 2)),
    Field("pci.device_id", "", _hex("id", 8)),
    Field("pci.sub_device_id", "", _hex("subsystem", 8)),
    Field("vbios_version", "", lambda card: card.text("GetVbiosVersion")),
    Field("pcie.link.gen.current", "", _number("GetCurrPcieLinkGeneration")),
    Field("pcie.link.gen.gpucurrent", "", _number("GetCurrPcieLinkGeneration")),
    Field("pcie.link.gen.max", "", _number("GetMaxPcieLinkGeneration")),
    Field("pcie.link.gen.gpumax", "", _number("GetMaxPcieLinkGeneration")),
    Field("pcie.link.width.current", "", _number("GetCurrPcieLinkWidth")),
    Field("pcie.link.width.max", "", _number("GetMaxPcieLinkWidth")),
    Field("display_mode", "", _switch("GetDisplayMode")),
    Field("display_active", "", _switch("GetDisplayActive")),
    Field("persistence_mode", "", _switch("GetPersistenceMode")),
    Field("fan.speed", "%", _number("GetFanSpeed")),
    Field("pstate", "", lambda card: f"P{card.number('GetPerformanceState')}"),
    Field("memory.total", "MiB", _memory("total")),
    Field("memory.reserved", "MiB", _memory("reserved")),
    Field("memory.used", "MiB", _memory("used")),
    Field("memory.free", "MiB", _memory("free")),
    Field("compute_mode", "", lambda card: _COMPUTE_MODES[card.number("GetComputeMode")]),
    Field(
        "compute_cap",
        "",
        lambda card: ".".join(map(str, card.pair("GetCudaComputeCapability", ctypes.c_int))),
    ),
    Field("utilization.gpu", "%", lambda card: card.utilization(0)),
    Field("utilization.memory", "%", lambda card: card.utilization(1)),
    Field("ecc.mode.current", "", _refused("GetEccMode")),
    Field("ecc.mode.pending", "", _refused("GetEccMode")),
    Field("mig.mode.current", "", _refused("GetMigMode")),
    Field("temperature.gpu", "", _number("GetTemperature", 0)),
    Field("temperature.memory", "", _unknown),
    Field("power.management", "", _switch("GetPowerManagementMode")),
    Field("power.draw", "W", _watts("GetPowerUsage")),
    Field("power.limit", "W", _watts("GetPowerManagementLimit")),
    Field("enforced.power.limit", "W", _watts("GetEnforcedPowerLimit")),
    Field("power.default_limit", "W", _watts("GetPowerManagementDefaultLimit")),
    Field("power.min_limit", "W", _limit(0)),
    Field("power.max_limit", "W", _limit(1)),
    *(
        Field(f"clocks.{when}.{name}", "MHz", _number(function, number))
        for when, function in (("current", "GetClockInfo"), ("max", "GetMaxClockInfo"))
        for name, number in _CLOCKS.items()
        if (when, name) != ("max", "video")
    ),
    *(
        made
        for prefix in ("clocks_event_reasons", "clocks_throttle_reasons")
        for made in (
            Field(f"{prefix}.active", "", lambda card: f"0x{card.slowed():016x}"),
            *(Field(f"{prefix}.{name}", "", _reason(bit)) for name, bit in _REASONS.items()),
        )
    ),
)

#: Short and older names that the real one takes too; the column's head has the full name.
_ALIASES = {
    "gpu_name": "name",
    "gpu_serial": "serial",
    "gpu_uuid": "uuid",
    "gpu_bus_id": "pci.bus_id",
    "clocks.gr": "clocks.current.graphics",
    "clocks.sm": "clocks.current.sm",
    "clocks.mem": "clocks.current.memory",
    "clocks.video": "clocks.current.video",
    "clocks.max.gr": "clocks.max.graphics",
    "clocks.max.mem": "clocks.max.memory",
}
FIELDS = {made.name: made for made in _TABLE}


def fields_named(names: str) -> list[Field]:
    """Return the columns that --query-gpu names."""
    chosen = []
    for name in names.split(","):
        known = FIELDS.get(_ALIASES.get(name.strip(), name.strip()))
        if known is None:
            raise EndError(
                f'Field "{name.strip()}" is not a valid field to query.\n', INVALID_ARGUMENT
            )
        chosen.append(known)
    return chosen


# --- Which cards ----------------------------------------------------------------------------------


def _is_meant(nvml: Nvml, index: int, ids: Sequence[str]) -> bool:
    address = nvml.text("simulatedAddressByIndex", ctypes.c_uint(index)).upper()
    for wanted in ids:
        if wanted.isdigit() and int(wanted) == index:
            return True
        if ":" in wanted and address.endswith(wanted.upper()):
            return True
        if wanted.startswith("GPU-"):
            try:
                card = card_at(nvml, index)
            except NvmlError:
                continue
            if card.text("GetUUID") == wanted:
                return True
    return not ids


def card_at(nvml: Nvml, index: int) -> Card:
    """Return the card of an index."""
    handle = ctypes.c_void_p()
    nvml.call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(handle))
    return Card(nvml, index, handle)


def cards_meant(nvml: Nvml, ids: Sequence[str]) -> Iterator[Card]:
    """Yield the cards that `-i` names, or all; a line for each that gives no handle."""
    found = 0
    for index in range(nvml.numbers("nvmlDeviceGetCount_v2")):
        if not _is_meant(nvml, index, ids):
            continue
        try:
            card = card_at(nvml, index)
        except NvmlError as failure:
            address = nvml.text("simulatedAddressByIndex", ctypes.c_uint(index))[4:]
            words = nvml.words(failure.code)
            print(f"Unable to determine the device handle for GPU{index}: {address}: {words}")
            continue
        found += 1
        yield card
    if not found:
        raise EndError("No devices were found", NOT_FOUND)


# --- What it prints -------------------------------------------------------------------------------


def list_cards(nvml: Nvml, ids: Sequence[str]) -> None:
    """-L."""
    for card in cards_meant(nvml, ids):
        print(f"GPU {card.index}: {card.text('GetName')} (UUID: {card.text('GetUUID')})")


def query(nvml: Nvml, ids: Sequence[str], names: str, layout: str | None) -> None:
    """--query-gpu: a line for each card."""
    chosen = fields_named(names)
    words = (layout or "").split(",")
    if "csv" not in words or set(words) - {"csv", "noheader", "nounits"}:
        raise EndError(
            '"--format=" must be csv, with or without noheader and nounits. Please run'
            " 'nvidia-smi -h' for help.",
            INVALID_ARGUMENT,
        )
    lines = [", ".join(made.title for made in chosen)] if "noheader" not in words else []
    for card in cards_meant(nvml, ids):
        cells = (made.cell(card, units="nounits" not in words) for made in chosen)
        lines.append(", ".join(cells))
    print("\n".join(lines))


def _short(card: Card, name: str) -> str:
    """A cell of the table: no blank before the unit, N/A and ERR! for what a card refuses."""
    cell = FIELDS[name].cell(card, units=True)
    if cell.startswith("["):
        return "N/A" if cell == "[N/A]" else "ERR!"
    return cell.replace(" ", "")


def _whole_watts(card: Card, name: str) -> str:
    cell = _short(card, name)
    return f"{float(cell.removesuffix('W')):.0f}W" if cell.endswith("W") else cell


def _row(*cells: str) -> str:
    return "|" + "|".join(cells) + "|"


def _rule(corner: str, line: str) -> str:
    return corner + "+".join(line * width for width in _WIDTHS) + corner


def _card_rows(card: Card) -> list[str]:
    persistence = "On" if _short(card, "persistence_mode") == "Enabled" else "Off"
    display = "On" if _short(card, "display_active") == "Enabled" else "Off"
    temperature = _short(card, "temperature.gpu")
    if temperature.isdigit():
        temperature += "C"
    power = f"{_whole_watts(card, 'power.draw')} / {_whole_watts(card, 'power.limit'):>5}"
    memory = f"{_short(card, 'memory.used'):>11} / {_short(card, 'memory.total'):>9}"
    state = f" {_short(card, 'fan.speed'):>3}  {temperature:>4}    {_short(card, 'pstate'):<3}"
    return [
        _row(
            f" {card.index:>3}  {card.text('GetName'):<27.27}    {persistence:<3} ",
            f"{card.address():>19} {display:<3} ",
            f"{_short(card, 'ecc.mode.current'):>21} ",
        ),
        _row(
            f"{state}{power:>23} ",
            f"{memory} ",
            f"{_short(card, 'utilization.gpu'):>8}{_short(card, 'compute_mode'):>13} ",
        ),
        _row(" " * _WIDTHS[0], " " * _WIDTHS[1], f"{_short(card, 'mig.mode.current'):>21} "),
        _rule("+", "-"),
    ]


class _Process(ctypes.Structure):
    _fields_ = [
        ("pid", ctypes.c_uint),
        ("memory", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    ]


def _process_rows(card: Card) -> list[str]:
    room = 256
    count, found = ctypes.c_uint(room), (_Process * room)()
    function = "nvmlDeviceGetComputeRunningProcesses_v3"
    try:
        card.nvml.call(function, card.handle, ctypes.byref(count), found)
    except NvmlError:
        return []
    rows = []
    for process in found[: count.value]:
        try:
            name = card.nvml.text("nvmlSystemGetProcessName", ctypes.c_uint(process.pid))
        except NvmlError:
            name = "[Not Found]"
        memory = f"{process.memory // MIB}MiB"
        rows.append(
            f"|  {card.index:>3}   N/A  N/A{process.pid:>10}      C   {name:<38.38}{memory:>14} |"
        )
    return rows


def table(nvml: Nvml, ids: Sequence[str]) -> None:
    """Without options: all that matters, for people."""
    driver = nvml.text("nvmlSystemGetDriverVersion")
    cuda = nvml.numbers("nvmlSystemGetCudaDriverVersion_v2", kind=ctypes.c_int)
    cards = list(cards_meant(nvml, ids))
    wide = sum(_WIDTHS) + 2
    versions = f" NVIDIA-SMI {driver:<22} Driver Version: {driver:<14} CUDA Version: "
    lines = [
        f"{datetime.datetime.now():%a %b %e %H:%M:%S %Y}       ",  # noqa: DTZ005 (the host's own)
        f"+{'-' * wide}+",
        f"|{f'{versions}{cuda // 1000}.{cuda % 1000 // 10}':<{wide}}|",
        "|" + _rule("", "-") + "+",
        _row(
            " GPU  Name                 Persistence-M ",
            " Bus-Id          Disp.A ",
            " Volatile Uncorr. ECC ",
        ),
        _row(
            " Fan  Temp   Perf          Pwr:Usage/Cap ",
            "           Memory-Usage ",
            " GPU-Util  Compute M. ",
        ),
        _row(" " * _WIDTHS[0], " " * _WIDTHS[1], f"{'MIG M.':>21} "),
        "|" + _rule("", "=") + "|",
        *(row for card in cards for row in _card_rows(card)),
        " " * wide,
        f"+{'-' * wide}+",
        f"|{' Processes:':<{wide}}|",
        f"|{'  GPU   GI   CI        PID   Type   Process name':<{wide - 12}} GPU Memory |",
        f"|{'        ID   ID':<{wide - 12}} Usage      |",
        f"|{'=' * wide}|",
        *(
            [row for card in cards for row in _process_rows(card)]
            or [f"|{'  No running processes found':<{wide}}|"]
        ),
        f"+{'-' * wide}+",
    ]
    print("\n".join(lines))


def versions(nvml: Nvml) -> None:
    """--version."""
    driver = nvml.text("nvmlSystemGetDriverVersion")
    cuda = nvml.numbers("nvmlSystemGetCudaDriverVersion_v2", kind=ctypes.c_int)
    print(f"NVIDIA-SMI version  : {driver}")
    print(f"NVML version        : {'.'.join(driver.split('.')[:2])}")
    print(f"DRIVER version      : {driver}")
    print(f"CUDA Version        : {cuda // 1000}.{cuda % 1000 // 10}")


# --- What it changes ------------------------------------------------------------------------------


def _change(card: Card, what: str, function: str, value: int) -> None:
    """Set something; the words and codes of what a card or the system refuses."""
    try:
        card.nvml.call(f"nvmlDevice{function}", card.handle, ctypes.c_uint(value))
    except NvmlError as failure:
        raise EndError(
            f"Failed to set {what} for GPU {card.address()}: {card.nvml.words(failure.code)}\n"
            "Terminating early due to previous errors.",
            failure.code,
        ) from None


def set_power_limit(nvml: Nvml, ids: Sequence[str], watts: str) -> None:
    """-pl, in watts."""
    try:
        wanted = round(float(watts) * 1000)
    except ValueError:
        raise EndError(f'"{watts}" is not a power limit in watts.', INVALID_ARGUMENT) from None
    for card in cards_meant(nvml, ids):
        try:
            before = card.number("GetPowerManagementLimit")
            least, most = card.pair("GetPowerManagementLimitConstraints")
        except NvmlError as failure:
            if failure.code != NOT_SUPPORTED:
                raise
            raise EndError(
                "Changing power management limit is not supported in current scope for GPU:"
                f" {card.address()}.\nAll done.",
                NOT_SUPPORTED,
            ) from None
        if not least <= wanted <= most:
            raise EndError(
                f"Provided power limit {wanted / 1000:.2f} W is not a valid power limit which"
                f" should be between {least / 1000:.2f} W and {most / 1000:.2f} W for GPU"
                f" {card.address()}\nTerminating early due to previous errors.",
                INVALID_ARGUMENT,
            )
        _change(card, "power management limit", "SetPowerManagementLimit", wanted)
        if not card.number("GetPersistenceMode"):
            print(_NOT_PERSISTENT.format(card.address()))
        print(
            f"Power limit for GPU {card.address()} was set to {wanted / 1000:.2f} W"
            f" from {before / 1000:.2f} W."
        )
    print("All done.")


def set_persistence(nvml: Nvml, ids: Sequence[str], mode: str) -> None:
    """-pm: 0 or DISABLED, 1 or ENABLED."""
    wanted = {"0": 0, "DISABLED": 0, "1": 1, "ENABLED": 1}.get(mode.upper())
    if wanted is None:
        raise EndError(f'"{mode}" is not a persistence mode (0 or 1).', INVALID_ARGUMENT)
    word = ("Disabled", "Enabled")[wanted]
    for card in cards_meant(nvml, ids):
        if card.number("GetPersistenceMode") == wanted:
            print(f"Persistence mode is already {word} for GPU {card.address()}.")
            continue
        _change(card, "persistence mode", "SetPersistenceMode", wanted)
        print(f"{word} persistence mode for GPU {card.address()}.")
    print("All done.")


# --- The command ----------------------------------------------------------------------------------

_OPTIONS = {
    "-L": "list",
    "--list-gpus": "list",
    "--version": "version",
    "-h": "help",
    "--help": "help",
    "--query-gpu": "query",
    "--format": "format",
    "-i": "ids",
    "--id": "ids",
    "-pl": "limit",
    "--power-limit": "limit",
    "-pm": "persistence",
    "--persistence-mode": "persistence",
}
_ALONE = {"list", "version", "help"}


@dataclass
class Wanted:
    """What the command line asks for."""

    options: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, words: Sequence[str]) -> Wanted:
        """Read the command line; `--x=VALUE` and `-x VALUE` are one."""
        wanted, rest = cls(), list(words)
        while rest:
            word, equals, value = rest.pop(0).partition("=")
            name = _OPTIONS.get(word)
            if name is None or (equals and name in _ALONE):
                raise EndError(
                    f'Option "{word}" is not simulated or does not exist. Please run'
                    " 'nvidia-smi -h' for help.",
                    INVALID_ARGUMENT,
                )
            if name not in _ALONE and not equals:
                if not rest:
                    raise EndError(f'Option "{word}" is missing its value.', INVALID_ARGUMENT)
                value = rest.pop(0)
            wanted.options[name] = value
        return wanted


def run(nvml: Nvml, options: dict[str, str]) -> None:
    """Do what the options say."""
    ids = [word.strip() for word in options.get("ids", "").split(",") if word.strip()]
    if "version" in options:
        versions(nvml)
    elif "list" in options:
        list_cards(nvml, ids)
    elif "query" in options:
        query(nvml, ids, options["query"], options.get("format"))
    elif "limit" in options or "persistence" in options:
        if "persistence" in options:
            set_persistence(nvml, ids, options["persistence"])
        if "limit" in options:
            set_power_limit(nvml, ids, options["limit"])
    else:
        table(nvml, ids)


def make_device_files() -> None:
    """Have the driver's device files made, as its libraries do for root.

    So what root has looked at works for others as well, until the next boot. The real libraries
    call the same program, which is setuid, for every user whose sandbox lets it.
    """
    if os.geteuid() == 0 and "SIMULATED_GPUS" not in os.environ:
        with contextlib.suppress(OSError):
            subprocess.run(["nvidia-modprobe", "-c", "255"], check=False)


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    try:
        options = Wanted.read(words).options
        if "help" in options:
            print(__doc__)
            return 0
        nvml = Nvml()
        make_device_files()
        try:
            nvml.call("nvmlInit_v2")
            run(nvml, options)
        except NvmlError as failure:
            if failure.code == DRIVER_NOT_LOADED:
                raise EndError(_NO_DRIVER, DRIVER_NOT_LOADED) from None
            what = "Failed to initialize NVML" if failure.code == VERSION_MISMATCH else "NVML"
            raise EndError(f"{what}: {nvml.words(failure.code)}", min(failure.code, 255)) from None
    except EndError as end:
        print(end.text)
        return end.code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
