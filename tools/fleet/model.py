"""What a fleet is: its machines and addresses, kept in ``fleet.json``."""

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.fleet.system import RUN_DIR, FleetError, write_file

SUITES = ("trixie", "bookworm")
DEFAULT_SUITE = "trixie"
DEFAULT_NAMES = ("gateway", "rig1", "rig2")

#: The host's own address is the subnet's first; machine number N has the address FIRST + N.
_FIRST_MACHINE_ADDRESS = 10
_MAX_MACHINES = 200

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One virtual host of a fleet.

    Attributes:
        name: What people and the inventory call it; its host name.
        number: Counts the fleet's machines; its address and kernel names come from it.
        address: IPv4 address on the fleet's bridge.
        machine: Name for systemd-nspawn. Short whatever ``name`` is: the host's side of its
            network is ``vb-MACHINE``, and an interface name has 15 characters at most.
        suite: Debian release.
    """

    name: str
    number: int
    address: str
    machine: str
    suite: str

    @property
    def host_link(self) -> str:
        """The host's end of the machine's network cable; systemd-nspawn(1), --network-bridge."""
        return f"vb-{self.machine}"


@dataclass(kw_only=True)
class Fleet:
    """The machines that one state directory owns.

    Attributes:
        directory: The state directory, absolute.
        id: Four hexadecimal digits, unique on this host.
        subnet: Private /24 that belongs to this fleet alone.
        suite: Debian release of machines that name no other.
        cache: Images, packages and ccache, shared by all fleets and kept when they end.
        machines: By name, in order of creation.
    """

    directory: Path
    id: str
    subnet: ipaddress.IPv4Network
    suite: str
    cache: Path
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def bridge(self) -> str:
        """Name of the bridge that joins the machines and the host."""
        return f"hc-{self.id}"

    @property
    def nft_table(self) -> str:
        """Name of the firewall table that holds this fleet's only rule."""
        return f"heartcode_{self.id}"

    @property
    def host_address(self) -> str:
        """The host's address on the bridge: the machines' gateway."""
        return str(self.subnet[1])

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``."""
        return self.directory / "ssh_config"

    @property
    def run_dir(self) -> Path:
        """What lasts no longer than the processes."""
        return RUN_DIR / self.id

    def machine_dir(self, name: str) -> Path:
        """A machine's root, log and marks."""
        return self.directory / "machines" / name

    def root(self, name: str) -> Path:
        """A machine's root file system; exists only when it is complete."""
        return self.machine_dir(name) / "root"

    def console(self, name: str) -> Path:
        """A machine's console log."""
        return self.machine_dir(name) / "console.log"

    def cut_mark(self, name: str) -> Path:
        """Exists while a machine's network is cut."""
        return self.machine_dir(name) / "cut"

    def find(self, name: str) -> Machine:
        """A machine by its name.

        Raises:
            FleetError: there is none of that name.
        """
        try:
            return self.machines[name]
        except KeyError:
            known = ", ".join(self.machines) or "none"
            raise FleetError(f"no machine {name!r} in this fleet; its machines: {known}") from None

    def add(self, name: str, suite: str) -> Machine:
        """Give a new machine its number and address; does not create anything.

        Raises:
            FleetError: the name or the release will not do, or the subnet is full.
        """
        check_name(name)
        check_suite(suite)
        used = {machine.number for machine in self.machines.values()}
        free = (number for number in range(_MAX_MACHINES) if number not in used)
        number = next(free, None)
        if number is None:
            raise FleetError(f"a fleet has {_MAX_MACHINES} machines at most")
        machine = Machine(
            name=name,
            number=number,
            address=str(self.subnet[_FIRST_MACHINE_ADDRESS + number]),
            machine=f"hc-{self.id}-{number}",
            suite=suite,
        )
        self.machines[name] = machine
        return machine

    def move_to(self, subnet: ipaddress.IPv4Network) -> None:
        """Renumber the fleet, because another network took its subnet meanwhile."""
        self.subnet = subnet
        old, self.machines = self.machines, {}
        for machine in old.values():
            self.machines[machine.name] = Machine(
                name=machine.name,
                number=machine.number,
                address=str(subnet[_FIRST_MACHINE_ADDRESS + machine.number]),
                machine=machine.machine,
                suite=machine.suite,
            )

    def to_json(self) -> dict[str, Any]:
        """The content of ``fleet.json``: a contract for scripts."""
        return {
            "id": self.id,
            "bridge": self.bridge,
            "subnet": str(self.subnet),
            "host_address": self.host_address,
            "suite": self.suite,
            "cache": str(self.cache),
            "machines": {
                machine.name: {
                    "address": machine.address,
                    "machine": machine.machine,
                    "number": machine.number,
                    "suite": machine.suite,
                }
                for machine in self.machines.values()
            },
        }

    def save(self) -> None:
        """Write ``fleet.json``."""
        write_file(self.directory / "fleet.json", json.dumps(self.to_json(), indent=2) + "\n")

    @classmethod
    def from_json(cls, directory: Path, data: Mapping[str, Any]) -> "Fleet":
        """The reverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: it is not the content of a ``fleet.json``.
        """
        fleet = cls(
            directory=directory,
            id=str(data["id"]),
            subnet=ipaddress.IPv4Network(data["subnet"]),
            suite=str(data["suite"]),
            cache=Path(data["cache"]),
        )
        for name, entry in data["machines"].items():
            fleet.machines[name] = Machine(
                name=name,
                number=int(entry["number"]),
                address=str(entry["address"]),
                machine=str(entry["machine"]),
                suite=str(entry["suite"]),
            )
        return fleet

    @classmethod
    def load(cls, directory: Path) -> "Fleet | None":
        """The fleet that a state directory owns; None when there is none.

        Raises:
            FleetError: its ``fleet.json`` cannot be read.
        """
        path = directory / "fleet.json"
        try:
            return cls.from_json(directory, json.loads(path.read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise FleetError(f"{path} is damaged ({error!r}): destroy this fleet") from None


def check_name(name: str) -> None:
    """Raise FleetError unless a name can be a host's name (RFC 1123, lower case)."""
    if not _NAME.fullmatch(name) or name == "localhost":
        raise FleetError(
            f"{name!r} cannot be a machine's name: lower case letters, digits and '-',"
            " beginning with a letter, 63 at most"
        )


def check_suite(suite: str) -> None:
    """Raise FleetError unless machines of this Debian release can be made."""
    if suite not in SUITES:
        raise FleetError(f"unknown Debian release {suite!r}; known: {', '.join(SUITES)}")


def parse_request(words: list[str], default_suite: str | None) -> dict[str, str | None]:
    """Machine names from a command line, each ``NAME`` or ``NAME:SUITE``, to their releases.

    Raises:
        FleetError: a name or release will not do, or a name comes twice.
    """
    wanted: dict[str, str | None] = {}
    for word in words:
        name, colon, suite = word.partition(":")
        check_name(name)
        if colon:
            check_suite(suite)
        if name in wanted:
            raise FleetError(f"machine {name!r} is named twice")
        wanted[name] = suite if colon else default_suite
    return wanted
