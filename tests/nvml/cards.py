#!/usr/bin/env python3
"""The cards that the simulated NVML (nvml.c) shows: made, changed and broken by tests.

    rig = Rig([p106(), p104(vram_mib=4096)]).save(path)
    rig.set(0, temperature=95)      # every change is in the file when the method returns
    rig.refuse(0, "fan_speed")      # this field is Not Supported
    rig.hang(1, "temperature")      # whoever asks for it waits until `set` gives it a value
    rig.lose(1)                     # off the bus: Xid 79, and "GPU is lost" (15) from now on
    rig.xid(0, 31)

On a virtual rig the same is the command `simulated-cards`, for /etc/simulated-gpus.json:
`simulated-cards set 0 temperature=95`. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Card = dict[str, Any]

DEFAULT_STATE = Path("/etc/simulated-gpus.json")
DEFAULT_SETTINGS = Path("/dev/simulated-gpus.settings")
NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
OFF_THE_BUS_XID = 79

#: What both models are alike in: an idle card without display on an x1 riser, with the power and
#: fan readings that these cards have in owners' listings of nvidia-smi. No serial number, no ECC.
_ALIKE: Card = {
    "compute_capability": "6.1",
    "memory_used_mib": 4,
    "bar1_total_mib": 256,
    "bar1_used_mib": 2,
    "temperature": 35,
    "utilization_gpu": 0,
    "utilization_memory": 0,
    "utilization_encoder": 0,
    "utilization_decoder": 0,
    "fan_speed": 38,
    "clock_graphics_mhz": 139,
    "clock_sm_mhz": 139,
    "clock_memory_mhz": 405,
    "clock_video_mhz": 544,
    "clock_graphics_max_mhz": 1911,
    "clock_sm_max_mhz": 1911,
    "clock_video_max_mhz": 1708,
    "clock_event_reasons": 1,  # idle
    "performance_state": 8,
    "pcie_generation": 1,
    "pcie_generation_max": 1,
    "pcie_width": 1,
    "pcie_replays": 0,
    "pcie_tx_kib_s": 0,
    "pcie_rx_kib_s": 0,
    "persistence_mode": False,
    "compute_mode": 0,
    "display_active": False,
    "display_mode": False,
    "processes": [],
    "events": [],
}


def p106(**changes: Any) -> Card:
    """Return a P106-100: 6 GB, 120 W. Its power limits are those of a usual board."""
    return {
        "name": "NVIDIA P106-100",
        "pci_device_id": "1C0710DE",
        "pci_subsystem_id": "11C010DE",
        "vbios_version": "86.06.58.00.27",
        **_ALIKE,
        # The driver keeps 69 of them: CUDA sees 6075 MiB.
        "memory_total_mib": 6144,
        "memory_reserved_mib": 69,
        "temperature_shutdown": 102,
        "temperature_slowdown": 99,
        "power_draw_w": 4.52,
        "power_limit_w": 120.0,
        "power_limit_default_w": 120.0,
        "power_limit_min_w": 60.0,
        "power_limit_max_w": 140.0,
        "clock_memory_max_mhz": 4004,
        "pcie_width_max": 16,
        **changes,
    }


def p104(*, vram_mib: int = 8192, **changes: Any) -> Card:
    """Return a P104-100: 180 W, 8 GB or, with `vram_mib=4096`, 4 GB."""
    return {
        "name": "NVIDIA P104-100",
        "pci_device_id": "1B8710DE",
        "pci_subsystem_id": "11B810DE",
        "vbios_version": "86.04.7A.00.1B",
        **_ALIKE,
        # CUDA sees 8116 of 8192 MiB.
        "memory_total_mib": vram_mib,
        "memory_reserved_mib": 76,
        "temperature_shutdown": 99,
        "temperature_slowdown": 96,
        "power_draw_w": 6.31,
        "power_limit_w": 180.0,
        "power_limit_default_w": 180.0,
        "power_limit_min_w": 90.0,
        "power_limit_max_w": 217.0,
        "clock_memory_max_mhz": 5005,
        "pcie_width_max": 4,
        **changes,
    }


#: What the command line and inventories call the models.
MODELS: dict[str, Callable[..., Card]] = {
    "P106-100": p106,
    "P104-100": p104,
    "P104-100-4GB": lambda **changes: p104(vram_mib=4096, **changes),
}


class Rig:
    """The cards of one host and its driver, by default Debian 13's with CUDA 12.4."""

    def __init__(self, cards: Iterable[Card], *, driver: str = "550.163.01", cuda: int = 12040):
        self.path: Path | None = None
        self.state: dict[str, Any] = {
            "driver_version": driver,
            "nvml_version": f"{cuda // 1000}.{driver}",
            "cuda_version": cuda,
            "cards": [],
        }
        for card in cards:
            self.add(card)

    @classmethod
    def load(cls, path: Path) -> Rig:
        """Return what a file describes; further changes go to that file."""
        rig = cls([])
        rig.state = json.loads(path.read_text())
        rig.path = path
        return rig

    @property
    def cards(self) -> list[Card]:
        """The cards in the order of their indexes."""
        cards: list[Card] = self.state["cards"]
        return cards

    def save(self, path: Path | None = None) -> Rig:
        """Replace the file, all of it at once; to `path` from now on if one is given."""
        self.path = path or self.path
        if self.path:
            new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            new.write_text(json.dumps(self.state, indent=1) + "\n")
            new.chmod(0o644)
            new.replace(self.path)
        return self

    def add(self, card: Card) -> Rig:
        """Plug a card in behind the others; it gets a UUID and an address unless it has them."""
        taken = {other["pci_bus_id"] for other in self.cards}
        bus = next(n for n in range(1, 256) if f"00000000:{n:02X}:00.0" not in taken)
        identity = {
            "uuid": f"GPU-{card['pci_device_id'].lower()}-0000-4000-8000-{bus:012x}",
            "pci_bus_id": f"00000000:{bus:02X}:00.0",
        }
        # The models share their lists of processes and events.
        self.cards.append(copy.deepcopy(identity | card))
        return self.save()

    def remove(self, index: int) -> Rig:
        """Take a card out of the list, as a reboot does with a lost one: the others renumber."""
        self._forget_settings(index)
        del self.cards[index]
        return self.save()

    def set(self, index: int, **fields: Any) -> Rig:
        """Give fields of a card new values (state.c lists them); this ends faults of theirs."""
        self.cards[index].update(fields)
        return self.save()

    def refuse(self, index: int, *fields: str, error: int = NOT_SUPPORTED) -> Rig:
        """Let fields answer with an NVML error. The field "card" means all that is asked."""
        return self.set(index, **{field: {"error": error} for field in fields})

    def hang(self, index: int, field: str = "card", *, seconds: float | None = None) -> Rig:
        """Let calls for a field hang, for `seconds` or else until the field is set again."""
        if seconds is None:
            return self.set(index, **{field: {"hang": True}})
        late = {} if field == "card" else {"value": self.cards[index][field]}
        return self.set(index, **{field: {"hang_s": seconds, **late}})

    def lose(self, index: int, *, xid: int | None = OFF_THE_BUS_XID) -> Rig:
        """Let a card fall off the bus, with the Xid that the driver reports then.

        What programs have set is lost with it: it comes back as it came from the factory.
        """
        self._forget_settings(index)
        if xid is not None:
            self.xid(index, xid)
        return self.refuse(index, "card", error=GPU_IS_LOST)

    def _forget_settings(self, index: int) -> None:
        """Take a card's lines out of the file in which the library keeps settings (state.c)."""
        if not self.path:
            return
        on_a_rig = self.path == DEFAULT_STATE
        file = DEFAULT_SETTINGS if on_a_rig else self.path.with_name(f"{self.path.name}.settings")
        with contextlib.suppress(FileNotFoundError), file.open("r+") as settings:
            fcntl.flock(settings, fcntl.LOCK_EX)
            uuid = self.cards[index]["uuid"]
            kept = [line for line in settings if not line.startswith(f"{uuid} ")]
            settings.seek(0)
            settings.truncate()
            settings.writelines(kept)

    def restore(self, index: int) -> Rig:
        """Let a lost or hanging card answer again; faults of single fields stay."""
        self.cards[index].pop("card", None)
        return self.save()

    def xid(self, index: int, number: int) -> Rig:
        """Report an Xid: whoever waits for events of this card wakes."""
        events = self.cards[index]["events"]
        latest = max((event["id"] for event in events), default=0)
        # By the clock, so that ids grow also over lists that were emptied or made anew.
        events.append({"id": max(latest + 1, time.time_ns() // 1000), "xid": number})
        return self.save()

    def process(self, index: int, pid: int, name: str, memory_mib: int) -> Rig:
        """Run a compute process on a card; its memory is in use."""
        card = self.cards[index]
        card["processes"].append({"pid": pid, "name": name, "memory_mib": memory_mib})
        card["memory_used_mib"] += memory_mib
        return self.save()

    def bus(self, directory: Path) -> None:
        """Write what /sys/bus/pci/devices has of the cards.

        Only of those with a driver or without one: a card that falls off the bus later stays in it,
        as it does in the kernel's until the bus is scanned anew.
        """
        for card in self.cards:
            domain, place = card["pci_bus_id"].split(":", 1)
            device = directory / f"{int(domain, 16):04x}:{place.lower()}"
            device.mkdir(parents=True, exist_ok=True)
            files = {
                "vendor": f"0x{card['pci_device_id'][4:].lower()}",
                "device": f"0x{card['pci_device_id'][:4].lower()}",
                "class": "0x030200",  # a 3D controller: these cards have no display
                "current_link_width": str(card["pcie_width"]),
                "max_link_speed": "2.5 GT/s PCIe",
            }
            for name, text in files.items():
                (device / name).write_text(text + "\n")

    def fail(self, error: int = DRIVER_NOT_LOADED) -> Rig:
        """Let nvmlInit fail."""
        self.state["init"] = {"error": error}
        return self.save()


def from_words(words: Iterable[str]) -> Rig:
    """Return the rig of words like `P106-100` and `P104-100=GPU-...`.

    Raises:
        ValueError: a word names no model, or not a UUID.
    """
    rig = Rig([])
    for word in words:
        model, equals, uuid = word.partition("=")
        if model not in MODELS:
            raise ValueError(f"{model!r} is no model; there are: {', '.join(MODELS)}")
        if equals and not re.fullmatch(r"GPU-[0-9a-f-]+", uuid):
            raise ValueError(f"{uuid!r} is no UUID (GPU- and hexadecimal digits)")
        rig.add(MODELS[model](**({"uuid": uuid} if equals else {})))
    return rig


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="simulated-cards", description="Change the cards that the simulated NVML shows."
    )
    parser.add_argument("--state", type=Path, default=DEFAULT_STATE, help="the file")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, *arguments: str) -> None:
        sub = commands.add_parser(name, help=text, description=text)
        for argument in arguments:
            kind: dict[str, Any] = {"type": int} if argument in ("index", "number") else {}
            many = {"fields": "+", "models": "*", "field": "?"}.get(argument)
            sub.add_argument(argument, metavar=argument.upper(), nargs=many, **kind)

    add("make", f"a rig of these models ({', '.join(MODELS)}), each with =UUID or not", "models")
    add("print", "as make, but to the standard output", "models")
    add("show", "print the file")
    add("set", "give fields values: temperature=95", "index", "fields")
    add("refuse", "make fields Not Supported", "index", "fields")
    add("hang", "let a field, or all of a card, hang", "index", "field")
    add("lose", "let a card fall off the bus", "index")
    add("restore", "let a lost or hanging card answer again", "index")
    add("remove", "take a card out", "index")
    add("xid", "report an Xid", "index", "number")
    add("bus", "write what the kernel shows of the PCI bus into a directory", "directory")
    return parser


def _change(rig: Rig, arguments: argparse.Namespace) -> None:
    index = arguments.index
    if not 0 <= index < len(rig.cards):
        raise ValueError(f"there is no card {index}; there are {len(rig.cards)}")
    match arguments.command:
        case "set":
            pairs = [word.partition("=") for word in arguments.fields]
            if not all(equals for _, equals, _ in pairs):
                raise ValueError("fields are set like this: temperature=95")
            rig.set(index, **{field: _value(text) for field, _, text in pairs})
        case "refuse":
            rig.refuse(index, *arguments.fields)
        case "hang":
            rig.hang(index, arguments.field or "card")
        case "xid":
            rig.xid(index, arguments.number)
        case _:
            getattr(rig, arguments.command)(index)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    arguments = _parser().parse_args(argv)
    try:
        match arguments.command:
            case "make":
                from_words(arguments.models).save(arguments.state)
            case "print":
                print(json.dumps(from_words(arguments.models).state, indent=1))
            case "bus":
                Rig.load(arguments.state).bus(Path(arguments.directory))
            case "show":
                print(json.dumps(Rig.load(arguments.state).state, indent=1))
            case _:
                _change(Rig.load(arguments.state), arguments)
    except (OSError, ValueError) as error:
        print(f"simulated-cards: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
