"""Ends fleets: whole, half-made, crashed, or with their state directory lost."""

import contextlib
import json
import re
import signal
from dataclasses import dataclass
from pathlib import Path

from tools.fleet import access, aptcache, cgroups, network, supervisor
from tools.fleet.model import Fleet
from tools.fleet.system import (
    RUN_DIR,
    FleetError,
    kill,
    locked_directory,
    processes,
    remove_tree,
    run,
    say,
    wait_until,
)

_ID = re.compile(r"[0-9a-f]{4}")
#: Everything that the tool puts into a state directory.
_FILES = ("fleet.json", "ssh_config", "known_hosts", "id_ed25519", "id_ed25519.pub", "extra-ca.pem")


def registry_lock() -> contextlib.AbstractContextManager[None]:
    """Held while fleets are added to or taken from those known on this host."""
    return locked_directory(RUN_DIR)


def register(fleet: Fleet) -> None:
    """Make a fleet known on this host; the caller holds ``registry_lock``."""
    fleet.run_dir.mkdir(parents=True, exist_ok=True)
    entry = {"id": fleet.id, "directory": str(fleet.directory), "subnet": str(fleet.subnet)}
    temporary = fleet.run_dir / ".fleet.json"
    temporary.write_text(json.dumps(entry))
    temporary.replace(fleet.run_dir / "fleet.json")


def registered() -> dict[str, Path]:
    """Ids and state directories of the fleets known on this host."""
    found = {}
    for entry in RUN_DIR.glob("*/fleet.json"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            found[entry.parent.name] = Path(json.loads(entry.read_text())["directory"])
    return found


@dataclass(frozen=True)
class _Process:
    pid: int
    fleet_id: str
    directory: Path | None


def fleet_process(arguments: list[str]) -> tuple[str, Path | None] | None:
    """Fleet and state directory of a supervisor or systemd-nspawn, by its arguments.

    None for every other process, also for one that merely speaks of them, such as an editor.
    """
    match arguments:
        case [_, _, "_supervise", "--dir", directory, "--id", fleet_id, _]:
            return fleet_id, Path(directory)
    if arguments and Path(arguments[0]).name == "systemd-nspawn":
        for argument in arguments:
            option, _equals, bridge = argument.partition("--network-bridge=hc-")
            if not option and _ID.fullmatch(bridge):
                return bridge, None
    return None


def _fleet_processes() -> list[_Process]:
    found = []
    for pid, _parent, arguments in processes():
        known = fleet_process(arguments)
        if known:
            found.append(_Process(pid, *known))
    return found


def _tables() -> set[str]:
    listing = run("nft", "list", "tables", check=False).stdout
    return set(re.findall(r"^table ip heartcode_([0-9a-f]{4})$", listing, re.MULTILINE))


def _ids_of_leftovers() -> set[str]:
    ids = set(registered()) | {process.fleet_id for process in _fleet_processes()} | _tables()
    ids |= {entry.name for entry in RUN_DIR.glob("*") if _ID.fullmatch(entry.name)}
    for link in Path("/sys/class/net").iterdir():
        match = re.fullmatch(r"(?:vb-)?hc-([0-9a-f]{4})(?:-\d+)?", link.name)
        if match:
            ids.add(match[1])
    top = cgroups.hierarchy()
    if top:
        ids |= {group.name for group in cgroups.fleet_group(top, "x").parent.glob("*/")}
    return ids


def owner_lives(fleet_id: str, directory: Path) -> bool:
    """Whether a state directory still owns the fleet of that id."""
    try:
        fleet = Fleet.load(directory)
    except FleetError:
        return True  # damaged is not lost: `destroy --dir` ends it
    return fleet is not None and fleet.id == fleet_id


def orphans() -> list[str]:
    """Ids of fleets of which something is left but whose state directory is gone."""
    owners: dict[str, set[Path]] = {}
    for fleet_id, directory in registered().items():
        owners.setdefault(fleet_id, set()).add(directory)
    for process in _fleet_processes():
        if process.directory:
            owners.setdefault(process.fleet_id, set()).add(process.directory)
    return sorted(
        fleet_id
        for fleet_id in _ids_of_leftovers()
        if not any(owner_lives(fleet_id, d) for d in owners.get(fleet_id, ()))
    )


def destroy_directory(directory: Path) -> bool:
    """End the fleet that a state directory owns; False if there was nothing to end."""
    fleet: Fleet | None = None
    known = registered()
    ids = {fleet_id for fleet_id, owner in known.items() if owner == directory}
    try:
        fleet = Fleet.load(directory)
    except FleetError as error:
        say(f"{error}; ending what is known of it")
        ids |= {p.fleet_id for p in _fleet_processes() if p.directory == directory}
    if fleet:
        owner = known.get(fleet.id, directory)
        if owner == directory or not owner_lives(fleet.id, owner):
            ids.add(fleet.id)
        else:
            say(f"{directory} is a copy of {owner}, whose machines stay")
    for fleet_id in sorted(ids):
        end_fleet(fleet_id)
    if fleet:
        for machine in fleet.machines.values():
            store = aptcache.cache_of(fleet.cache, machine.suite)
            aptcache.harvest(fleet.root(machine.name), store)
    return _remove_state(directory) or bool(ids)


def _remove_state(directory: Path) -> bool:
    """Remove the fleet's files from a state directory, and the directory if nothing else is in."""
    if not directory.is_dir():
        return False
    # What playbooks and a test have found and made for machines that are gone now.
    theirs = ("tuned", "gateway.key", "faults.json")
    known = [directory / name for name in ("machines", *theirs, *_FILES)]
    known += [path for name in _FILES for path in directory.glob(f".{name}.*")]
    existing = [path for path in known if path.exists()]
    for path in existing:
        remove_tree(path)
    try:
        directory.rmdir()
    except OSError:
        say(f"{directory} stays: it holds files that are not the fleet's")
    return bool(existing)


def end_fleet(fleet_id: str) -> None:
    """End everything of a fleet outside its state directory: processes, network, records."""
    if not _ID.fullmatch(fleet_id):
        raise FleetError(f"{fleet_id!r} is not the id of a fleet")
    _end_processes(fleet_id)
    access.hang_up(RUN_DIR / fleet_id)
    top = cgroups.hierarchy()
    if top:
        group = cgroups.fleet_group(top, fleet_id)
        cgroups.kill_all(group)
        cgroups.remove(group)
    for link in network.fleet_links(fleet_id):
        run("ip", "link", "delete", link, check=False)
    run("nft", "delete", "table", "ip", f"heartcode_{fleet_id}", check=False)
    for kind in ("propagate", "unix-export"):
        for directory in Path("/run/systemd/nspawn", kind).glob(f"hc-{fleet_id}-*"):
            remove_tree(directory)
    with registry_lock():
        if (RUN_DIR / fleet_id).exists():
            remove_tree(RUN_DIR / fleet_id)
        if not registered():
            network.restore_forwarding()
    left = [link for link in network.fleet_links(fleet_id) if network.link_exists(link)]
    if left:
        raise FleetError(f"could not remove the network interfaces {', '.join(left)}")


def _end_processes(fleet_id: str) -> None:
    """Ask the supervisors to cut the power, then kill what is still there."""

    def mine() -> list[_Process]:
        return [process for process in _fleet_processes() if process.fleet_id == fleet_id]

    for entry in (RUN_DIR / fleet_id).glob("*.json"):
        status = supervisor.read_status(entry)
        if status:
            kill(status.pid, signal.SIGTERM)
    for process in mine():
        if process.directory:
            kill(process.pid, signal.SIGTERM)
    if not wait_until(lambda: not mine(), deadline_s=10):
        for process in mine():
            kill(process.pid, signal.SIGKILL)
        if not wait_until(lambda: not mine(), deadline_s=5):
            pids = ", ".join(str(process.pid) for process in mine())
            raise FleetError(f"processes of fleet {fleet_id} cannot be killed: {pids}")
