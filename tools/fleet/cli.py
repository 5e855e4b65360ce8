"""The commands of ``scripts/fleet.py``."""

import argparse
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from heartcode_models.cache import cache_directory

from tools.fleet import access, aptcache, cleanup, network, roots, supervisor
from tools.fleet.image import IMAGE_MIB, Image
from tools.fleet.model import (
    DEFAULT_NAMES,
    DEFAULT_SUITE,
    SUITES,
    Fleet,
    Machine,
    parse_request,
)
from tools.fleet.system import (
    FleetError,
    check_space,
    locked_directory,
    missing_programs,
    say,
)

_ROOT = Path(__file__).resolve().parents[2]
_ENTRY = _ROOT / "scripts" / "fleet.py"

_EPILOG = """\
A fleet is a set of real systemd hosts (Debian, systemd-nspawn) on a private bridge, owned by a
state directory: --dir, else $HEARTCODE_FLEET_DIR, else .fleet in the repository. Fleets with
different directories live side by side. In the state directory lie
  ssh_config     ssh -F .fleet/ssh_config rig1 COMMAND
  fleet.json     addresses, for scripts
  extra-ca.pem   certificates that this host trusts beyond Debian's, for the machines' deployment
Images, downloaded packages and ccache are kept in $HEARTCODE_CACHE_DIR, else
${XDG_CACHE_HOME:-~/.cache}/heartcode; it may be removed while no fleet exists.
$HEARTCODE_DEBIAN_MIRROR and $HEARTCODE_DEBIAN_SECURITY_MIRROR overrule the mirrors of this host's
apt. The machines differ from freshly installed hosts in this: the apt-daily timers are off, dpkg
does not sync, apt keeps downloaded packages, /dev and the kernel are the host's.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code (0 done, 1 failed, 2 wrong usage)."""
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    os.environ["LC_ALL"] = "C.UTF-8"  # the words of other programs are read
    arguments = _parser().parse_args(argv)
    # An end by kill shall tidy up as ^C does.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(143))
    try:
        _check_host()
        command: Callable[[argparse.Namespace], int | None] = arguments.command
        return command(arguments) or 0
    except FleetError as error:
        print(f"fleet.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fleet.py: interrupted; `create` goes on, `destroy` cleans up", file=sys.stderr)
        return 130


def _check_host() -> None:
    if os.geteuid() != 0:
        raise FleetError("needs root: machines are mounts, network interfaces and processes")
    missing = missing_programs()
    if missing:
        raise FleetError(missing)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fleet.py",
        description="Own a fleet of virtual rigs.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--dir", type=Path, help="the fleet's state directory")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, command: Callable[[argparse.Namespace], int | None], text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, parents=[shared], help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    sub = add("create", _create, "make what is missing, start what is stopped, leave what runs")
    sub.add_argument(
        "names",
        nargs="*",
        metavar="NAME[:SUITE]",
        help=f"machines; default: those that the fleet has, else {' '.join(DEFAULT_NAMES)}",
    )
    sub.add_argument("--suite", choices=SUITES, help=f"Debian release (default {DEFAULT_SUITE})")
    sub = add("destroy", _destroy, "end the fleet and leave nothing behind")
    sub.add_argument(
        "--orphans", action="store_true", help="end fleets whose state directory is gone instead"
    )
    sub = add("list", _list, "show the machines and their states")
    sub.add_argument("--json", action="store_true", help="for scripts")
    sub = add("ssh", _ssh, "a shell or a command on a machine, as root")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    sub = add("shell", _shell, "a shell on a machine that needs no network")
    sub.add_argument("name", metavar="NAME")
    sub = add("logs", _logs, "the console log of a machine")
    sub.add_argument("name", metavar="NAME")
    for name, command, text in (
        ("stop", _stop, "cut the power: kill everything in the machine at once"),
        ("start", _start, "switch machines on and wait until they are ready"),
        ("reboot", _reboot, "let machines reboot themselves and wait until they are back"),
        ("cut", _cut, "pull the network cable; it stays pulled over reboots"),
        ("restore", _restore, "plug the network cable in again"),
    ):
        add(name, command, text).add_argument("names", nargs="+", metavar="NAME")
    add("harvest", _harvest, "keep the packages that the machines have downloaded so far")
    sub = add("image", _image, "print the path of a release's root file system, made if need be")
    sub.add_argument("--suite", choices=SUITES, default=DEFAULT_SUITE, help="Debian release")
    # For the tool's own use: without a help text it is not listed.
    sub = commands.add_parser("_supervise", parents=[shared])
    sub.set_defaults(command=_supervise)
    sub.add_argument("--id", required=True)
    sub.add_argument("name")
    return parser


def _directory(arguments: argparse.Namespace) -> Path:
    given = arguments.dir or os.environ.get("HEARTCODE_FLEET_DIR")
    return Path(given).resolve() if given else _ROOT / ".fleet"


def _fleet(arguments: argparse.Namespace) -> Fleet:
    directory = _directory(arguments)
    fleet = Fleet.load(directory)
    if fleet is None:
        raise FleetError(f"no fleet in {directory}: `fleet.py create` makes one")
    return fleet


def _machines(arguments: argparse.Namespace) -> tuple[Fleet, list[Machine]]:
    fleet = _fleet(arguments)
    return fleet, [fleet.find(name) for name in arguments.names]


def _image(arguments: argparse.Namespace) -> None:
    image = Image(arguments.suite, cache_directory(), os.environ)
    image.ensure()
    print(image.root)


# --- create ------------------------------------------------------------------------------------


def _create(arguments: argparse.Namespace) -> None:
    directory = _directory(arguments)
    cache = cache_directory()
    requested = parse_request(arguments.names, arguments.suite)
    with locked_directory(directory):
        fleet = _open_fleet(directory, cache, arguments.suite or DEFAULT_SUITE)
        names = _add_machines(fleet, requested)
        fleet.save()
        _make_roots(fleet, names)
        access.write(fleet)
        _launch(fleet, names)
    _wait_for(fleet, names)


def _open_fleet(directory: Path, cache: Path, suite: str) -> Fleet:
    """The directory's fleet or a new one, with its network up."""
    with cleanup.registry_lock():
        fleet = Fleet.load(directory)
        known = cleanup.registered()
        _refuse_copy(fleet, known)
        if fleet is None or known.get(fleet.id) != directory:
            servers = roots.host_resolver()[1]
            used = network.networks_in_use(servers)
            if fleet is None:
                fleet_id = _new_id(set(known))
                subnet = network.free_subnet(used)
                fleet = Fleet(
                    directory=directory, id=fleet_id, subnet=subnet, suite=suite, cache=cache
                )
                fleet.save()
                say(f"new fleet {fleet.id} in {directory}, subnet {fleet.subnet}")
            elif not network.link_exists(fleet.bridge) and any(map(fleet.subnet.overlaps, used)):
                # This host was rebooted, and others were quicker.
                fleet.move_to(network.free_subnet(used))
                say(f"subnet taken by others meanwhile, moving to {fleet.subnet}")
                fleet.save()
            cleanup.register(fleet)
        network.bring_up(fleet)
    return fleet


def _refuse_copy(fleet: Fleet | None, known: dict[str, Path]) -> None:
    if fleet is None:
        return
    owner = known.get(fleet.id, fleet.directory)
    if owner != fleet.directory and cleanup.owner_lives(fleet.id, owner):
        raise FleetError(
            f"{fleet.directory} is a copy of {owner}, which owns fleet {fleet.id}:"
            " destroy the copy, it leaves the fleet alone"
        )


def _new_id(known: set[str]) -> str:
    while True:
        fleet_id = secrets.token_hex(2)
        if fleet_id not in known and not network.fleet_links(fleet_id):
            return fleet_id


def _add_machines(fleet: Fleet, requested: dict[str, str | None]) -> list[str]:
    """Give new machines their place in the fleet; gives the names of all that shall run."""
    if not requested:
        requested = dict.fromkeys(fleet.machines or DEFAULT_NAMES)
    for name, suite in requested.items():
        machine = fleet.machines.get(name)
        if machine is None:
            fleet.add(name, suite or fleet.suite)
        elif suite and suite != machine.suite:
            raise FleetError(
                f"{name} exists with {machine.suite}: destroy the fleet to have it with {suite}"
            )
    return list(requested)


def _make_roots(fleet: Fleet, names: list[str]) -> None:
    missing = [fleet.machines[name] for name in names if not fleet.root(name).is_dir()]
    fleet.cache.mkdir(parents=True, exist_ok=True)
    images = {
        suite: Image(suite, fleet.cache, os.environ)
        for suite in sorted({machine.suite for machine in fleet.machines.values()})
    }
    new_images = [i for i in images.values() if not i.root.exists()]
    if missing and new_images:
        check_space(fleet.cache, IMAGE_MIB * len(new_images), "making the images")
    for suite in sorted({machine.suite for machine in missing}):
        images[suite].ensure()
    if missing:
        check_space(fleet.directory, roots.ROOT_MIB * len(missing), "making the machines")
    for machine in missing:
        roots.create(fleet, machine, images[machine.suite])
    access.write_extra_ca(fleet, [i.root for i in images.values() if i.root.exists()])


def _launch(fleet: Fleet, names: list[str]) -> None:
    for machine in fleet.machines.values():
        if fleet.root(machine.name).is_dir():  # all: a new one is in everybody's /etc/hosts
            roots.settle(fleet, machine)
    for name in names:
        supervisor.launch(fleet, fleet.machines[name], _ENTRY)


def _wait_for(fleet: Fleet, names: list[str]) -> None:
    for name in names:
        seconds = supervisor.wait_ready(fleet, name)
        cut = ", its network is cut" if fleet.cut_mark(name).exists() else ""
        waited = f" (waited {seconds:.1f} s)" if seconds > 1 else ""
        say(f"{name}: ready at {fleet.machines[name].address}{waited}{cut}")


# --- the others --------------------------------------------------------------------------------


def _destroy(arguments: argparse.Namespace) -> None:
    if arguments.orphans:
        for fleet_id in cleanup.orphans():
            cleanup.end_fleet(fleet_id)
            say(f"ended what was left of fleet {fleet_id}")
        return
    directory = _directory(arguments)
    if not directory.is_dir() and directory not in cleanup.registered().values():
        say(f"no fleet in {directory}")
        return
    with locked_directory(directory):
        found = cleanup.destroy_directory(directory)
    say(f"the fleet in {directory} is gone" if found else f"no fleet in {directory}")


def describe(fleet: Fleet, machine: Machine) -> dict[str, Any]:
    """What ``list`` tells about a machine."""
    status = supervisor.status_of(fleet, machine.name)
    system = supervisor.system_state(status) if status else ""
    if status:
        state = "running" if system in supervisor.SYSTEM_STATES else "starting"
    else:
        state = "stopped" if fleet.root(machine.name).is_dir() else "incomplete"
    return {
        "name": machine.name,
        "address": machine.address,
        "suite": machine.suite,
        "state": state,
        "systemd": system,
        "network": "cut" if fleet.cut_mark(machine.name).exists() else "up",
    }


def _list(arguments: argparse.Namespace) -> None:
    fleet = _fleet(arguments)
    rows = [describe(fleet, machine) for machine in fleet.machines.values()]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    columns = ("name", "address", "suite", "state", "systemd", "network")
    table = [[c.upper() for c in columns], *([str(row[c]) for c in columns] for row in rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def _ssh(arguments: argparse.Namespace) -> None:
    fleet = _fleet(arguments)
    fleet.find(arguments.name)
    command = ["ssh", "-F", str(fleet.ssh_config), arguments.name, *arguments.words]
    os.execvp("ssh", command)  # noqa: S606 (no shell is meant)


def _shell(arguments: argparse.Namespace) -> None:
    fleet = _fleet(arguments)
    status = supervisor.status_of(fleet, fleet.find(arguments.name).name)
    leader = supervisor.leader_of(status.nspawn) if status else None
    if leader is None:
        raise FleetError(f"{arguments.name} is off: start it")
    where = ("nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--wd=/root")
    os.execvp("nsenter", [*where, "--", "bash", "--login"])  # noqa: S606 (no shell is meant)


def _logs(arguments: argparse.Namespace) -> None:
    fleet = _fleet(arguments)
    path = fleet.console(fleet.find(arguments.name).name)
    for part in (path.with_suffix(".log.1"), path):
        if part.exists():
            sys.stdout.buffer.write(part.read_bytes())


def _stop(arguments: argparse.Namespace) -> None:
    with locked_directory(_fleet(arguments).directory):
        fleet, machines = _machines(arguments)
        for machine in machines:
            supervisor.cut_power(fleet, machine)
            say(f"{machine.name}: off")


def _start(arguments: argparse.Namespace) -> None:
    _machines(arguments)  # a wrong name changes nothing
    with locked_directory(_fleet(arguments).directory):
        fleet = _open_fleet(_directory(arguments), cache_directory(), DEFAULT_SUITE)
        access.write(fleet)
        _launch(fleet, arguments.names)
    _wait_for(fleet, arguments.names)


def _reboot(arguments: argparse.Namespace) -> None:
    fleet, machines = _machines(arguments)
    for machine in machines:
        seconds = supervisor.reboot(fleet, machine.name)
        say(f"{machine.name}: rebooted in {seconds:.1f} s")


def _cut(arguments: argparse.Namespace) -> None:
    with locked_directory(_fleet(arguments).directory):
        fleet, machines = _machines(arguments)
        for machine in machines:
            fleet.cut_mark(machine.name).touch()
            network.set_cable(machine, up=False)
            access.hang_up(fleet.run_dir, machine)
            say(f"{machine.name}: network cut")


def _restore(arguments: argparse.Namespace) -> None:
    with locked_directory(_fleet(arguments).directory):
        fleet, machines = _machines(arguments)
        for machine in machines:
            fleet.cut_mark(machine.name).unlink(missing_ok=True)
            network.set_cable(machine, up=True)
    for machine in machines:
        if supervisor.status_of(fleet, machine.name):
            supervisor.wait_ready(fleet, machine.name)
        say(f"{machine.name}: network restored")


def _harvest(arguments: argparse.Namespace) -> None:
    fleet = _fleet(arguments)
    for machine in fleet.machines.values():
        store = aptcache.cache_of(fleet.cache, machine.suite)
        count = aptcache.harvest(fleet.root(machine.name), store)
        say(f"{machine.name}: {count} new packages kept")


def _supervise(arguments: argparse.Namespace) -> int:
    return supervisor.supervise(_directory(arguments), arguments.name)
