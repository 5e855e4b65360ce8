"""The process that keeps one machine, and how commands talk to it.

systemd-nspawn ends when its guest reboots and expects somebody to start it again. On a host that
may have no systemd that is the supervisor: a process of its own session and control group, so that
it outlives the command that made it, with its own mount namespace, so that its mounts end with it.
SIGTERM means: cut the machine's power. When the supervisor itself is killed, its machine dies too.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from tools.fleet import access, aptcache, cgroups, network
from tools.fleet.model import Fleet, Machine
from tools.fleet.system import (
    FleetError,
    boot_id,
    kill,
    process_start,
    processes,
    remove_tree,
    run,
    tail,
    wait_until,
    write_file,
)

#: systemd-nspawn's exit code under --keep-unit when its guest asks for a reboot.
_REBOOT = 133
_CONSOLE_LIMIT = 2**20
#: How long systemd-nspawn may tidy up after its guest was killed.
_NSPAWN_GRACE_S = 3
_NSPAWN_RUN = Path("/run/systemd/nspawn")
SYSTEM_STATES = frozenset({"running", "degraded"})


@dataclass(frozen=True, kw_only=True)
class Status:
    """What a supervisor tells about itself.

    Attributes:
        pid: The supervisor.
        start: Its start time in clock ticks: a pid alone may be another process's by now.
        boot: The boot of this host in which ``start`` counts.
        nspawn: Pid of systemd-nspawn; 0 between two boots of the machine.
        boots: How often the machine was started or restarted by this supervisor.
    """

    pid: int
    start: int
    boot: str
    nspawn: int
    boots: int

    def alive(self) -> bool:
        """Whether that very process still lives."""
        return self.boot == boot_id() and process_start(self.pid) == self.start


def status_path(fleet: Fleet, name: str) -> Path:
    """A supervisor's pid file."""
    return fleet.run_dir / f"{name}.json"


def read_status(path: Path) -> Status | None:
    """The living supervisor that a pid file speaks of; None if stale, damaged or missing."""
    try:
        status = Status(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return status if status.alive() else None


def status_of(fleet: Fleet, name: str) -> Status | None:
    """The living supervisor of a machine; None while the machine is off."""
    return read_status(status_path(fleet, name))


# --- the supervisor itself ---------------------------------------------------------------------


def nspawn_command(fleet: Fleet, machine: Machine) -> list[str]:
    """How a machine is booted."""
    binds = {
        fleet.cache / "ccache": "/var/cache/heartcode/ccache",
    }
    return [
        "systemd-nspawn",
        *("--settings=no", "--register=no", "--keep-unit", "--boot"),
        f"--directory={fleet.root(machine.name)}",
        f"--machine={machine.machine}",
        f"--hostname={machine.name}",
        f"--network-bridge={fleet.bridge}",
        # Nothing of the host shall get in unasked, nor anything of the machine out.
        *("--resolv-conf=off", "--timezone=off", "--link-journal=no", "--private-users=no"),
        "--console=read-only",
        *(f"--bind={str(source).replace(':', chr(92) + ':')}:{to}" for source, to in binds.items()),
    ]


class _Console:
    """The machine's console log: bounded, the older half kept beside it as ``.1``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._size = os.fstat(descriptor).st_size
        for standard in (1, 2):  # also the supervisor's own words
            os.dup2(descriptor, standard)
        os.close(descriptor)

    def write(self, data: bytes) -> None:
        os.write(1, data)
        self._size += len(data)
        if self._size > _CONSOLE_LIMIT:
            with contextlib.suppress(FileNotFoundError):  # the state directory may be lost
                self._path.replace(self._path.with_suffix(".log.1"))
                self._open()

    def note(self, text: str) -> None:
        self.write(f"\n--- fleet: {text}\n".encode())


class Supervisor:
    """Keeps one machine until its power is cut or it switches itself off."""

    def __init__(self, fleet: Fleet, machine: Machine) -> None:
        """Take over this process: console, control group, mounts, signals."""
        self._fleet = fleet
        self._machine = machine
        self._console = _Console(fleet.console(machine.name))
        self._power_cut = False
        self._boots = 0
        self._top = _own_hierarchy()
        self._group = cgroups.fleet_group(self._top, fleet.id) / machine.machine
        _end_remains(fleet, machine, self._top)
        for part in ("tool", "guest"):
            cgroups.make(self._top, self._group / part)
        cgroups.enter(self._group / "tool")
        self._guard = _start_guard(self._group / "guest")
        self._wake, wake_end = socket.socketpair()
        for end in (self._wake, wake_end):
            end.settimeout(0)
        self._wake_end = wake_end
        signal.set_wakeup_fd(wake_end.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGCHLD, lambda _signal, _frame: None)
        for ignored in (signal.SIGINT, signal.SIGHUP):
            signal.signal(ignored, signal.SIG_IGN)

    def run(self) -> int:
        """Boot the machine, again whenever it reboots; gives systemd-nspawn's last exit code."""
        try:
            while True:
                began = time.monotonic()
                code = self._boot_once()
                if self._power_cut or code != _REBOOT:
                    break
                self._console.note("the machine reboots")
                if time.monotonic() - began < 1:
                    time.sleep(1)  # a machine that reboots at once must not eat a CPU
            cut = "its power was cut" if self._power_cut else f"it switched off (code {code})"
            self._console.note(f"the machine is off: {cut}")
            return code
        finally:
            self._clean_up()

    def _on_sigterm(self, _signal: int, _frame: object) -> None:
        self._power_cut = True

    def _write_status(self, nspawn: int) -> None:
        start = process_start(os.getpid())
        status = Status(
            pid=os.getpid(), start=start or 0, boot=boot_id(), nspawn=nspawn, boots=self._boots
        )
        with contextlib.suppress(FileNotFoundError):  # the fleet is being destroyed
            write_file(status_path(self._fleet, self._machine.name), json.dumps(asdict(status)))

    def _boot_once(self) -> int:
        if self._power_cut:
            return 0
        _clean_after_nspawn(self._fleet, self._machine)
        self._boots += 1
        self._console.note(f"boot {self._boots}")
        # The shell enters the control group before systemd-nspawn makes its own ones below it.
        script = 'echo $$ >"$0" && exec "$@"'
        process = subprocess.Popen(
            [
                *("sh", "-c", script, str(self._group / "guest" / "cgroup.procs")),
                *nspawn_command(self._fleet, self._machine),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
        )
        self._write_status(process.pid)
        self._keep_cable_pulled(process)
        self._follow(process)
        self._write_status(0)
        return process.returncode

    def _keep_cable_pulled(self, process: "subprocess.Popen[bytes]") -> None:
        """A cut network stays cut: systemd-nspawn has just plugged in a new cable."""
        if not self._fleet.cut_mark(self._machine.name).exists():
            return
        link = self._machine.host_link
        wait_until(
            lambda: network.link_exists(link) or process.poll() is not None or self._power_cut,
            deadline_s=10,
            step_s=0.005,
        )
        # systemd-nspawn creates the link first and switches it on a moment later.
        flags = Path(f"/sys/class/net/{link}/flags")
        wait_until(
            lambda: not network.link_exists(link) or _link_is_up(flags), deadline_s=2, step_s=0.005
        )
        network.set_cable(self._machine, up=False)

    def _follow(self, process: "subprocess.Popen[bytes]") -> None:
        power_off_since: float | None = None
        with selectors.DefaultSelector() as selector, _output(process) as pipe:
            selector.register(self._wake, selectors.EVENT_READ)
            selector.register(pipe, selectors.EVENT_READ)
            while process.poll() is None:
                if self._power_cut:
                    if power_off_since is None:
                        power_off_since = time.monotonic()
                        self._kill_guest(process)
                    elif time.monotonic() - power_off_since > _NSPAWN_GRACE_S:
                        process.kill()
                for key, _events in selector.select(0.2 if self._power_cut else None):
                    if key.fileobj is self._wake:
                        with contextlib.suppress(BlockingIOError):
                            self._wake.recv(4096)
                    elif not self._copy_console(pipe.fileno()):
                        selector.unregister(pipe)
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(BlockingIOError):
                while self._copy_console(pipe.fileno()):
                    pass

    def _copy_console(self, descriptor: int) -> bool:
        data = os.read(descriptor, 65536)
        if data:
            self._console.write(data)
        return bool(data)

    def _kill_guest(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill all of the guest at once; systemd-nspawn then tidies up after it by itself."""
        if not cgroups.kill_all(self._group / "guest" / "payload"):
            leader = leader_of(process.pid)
            kill(leader or process.pid, signal.SIGKILL)

    def _clean_up(self) -> None:
        _clean_after_nspawn(self._fleet, self._machine)
        self._guard.communicate()  # closes its pipe: it kills what is left of the guest
        with contextlib.suppress(OSError):
            cgroups.enter(self._top)
        cgroups.remove(self._group)
        status_path(self._fleet, self._machine.name).unlink(missing_ok=True)


def _start_guard(group: Path) -> "subprocess.Popen[bytes]":
    """A process that kills a group when this one ends, however it ends.

    systemd-nspawn could be told to die with us, but its guest then lives on (measured, 252).
    """
    script = 'trap "" HUP INT TERM; read -r _; echo 1 >"$0"'
    return subprocess.Popen(
        ["sh", "-c", script, str(group / "cgroup.kill")], stdin=subprocess.PIPE, cwd="/"
    )


def _output(process: "subprocess.Popen[bytes]") -> IO[bytes]:
    if process.stdout is None:
        raise AssertionError("started without a pipe")
    return process.stdout


def _link_is_up(flags: Path) -> bool:
    try:
        return bool(int(flags.read_text(), 16) & 1)  # IFF_UP, if.h
    except OSError:
        return False


def _own_hierarchy() -> Path:
    """Make sure that systemd-nspawn sees the unified hierarchy; only in our mount namespace."""
    usual = Path("/sys/fs/cgroup")
    if cgroups.hierarchy() != usual:
        if run("umount", "--recursive", usual, check=False).returncode != 0:
            run("umount", "--lazy", usual, check=False)
        run("mount", "-t", "cgroup2", "cgroup2", usual)
    return usual


def _end_remains(fleet: Fleet, machine: Machine, top: Path | None) -> None:
    """End what a killed supervisor left running; the machine has no living supervisor."""
    if top:
        group = cgroups.fleet_group(top, fleet.id) / machine.machine
        cgroups.kill_all(group)
        cgroups.remove(group)
    access.hang_up(fleet.run_dir, machine)
    # Its cable goes with its network namespace, a moment after its last process.
    if not wait_until(lambda: not network.link_exists(machine.host_link), deadline_s=5):
        run("ip", "link", "delete", machine.host_link, check=False)


def _clean_after_nspawn(fleet: Fleet, machine: Machine) -> None:
    """Remove what systemd-nspawn leaves in /run when it is killed."""
    with contextlib.suppress(FileNotFoundError):
        info = fleet.root(machine.name).stat()
        lock = _NSPAWN_RUN / "locks" / f"inode-{info.st_dev}:{info.st_ino}"
        lock.unlink(missing_ok=True)
    for kind in ("propagate", "unix-export"):
        directory = _NSPAWN_RUN / kind / machine.machine
        if directory.exists():
            run("umount", directory, check=False)
            remove_tree(directory)


def supervise(directory: Path, name: str) -> int:
    """Be the supervisor of a machine; for the tool's own use."""
    fleet = Fleet.load(directory)
    if fleet is None:
        raise FleetError(f"no fleet in {directory}")
    return Supervisor(fleet, fleet.find(name)).run()


# --- commands' side ----------------------------------------------------------------------------


def leader_of(nspawn: int) -> int | None:
    """The guest's PID 1 as this host sees it, given its systemd-nspawn; None if not there yet."""
    for pid, parent, _arguments in processes():
        if parent != nspawn:
            continue
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("NSpid:") and line.split()[-1] == "1":
                    return pid
    return None


def in_guest(status: Status, *argv: str, timeout_s: float = 10) -> str | None:
    """What a program prints inside a machine, also when its network is cut; None if it is off."""
    leader = leader_of(status.nspawn) if status.nspawn else None
    if leader is None:
        return None
    enter = ("nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", "--")
    done = run(*enter, *argv, check=False, timeout_s=timeout_s)
    return done.stdout.strip()


def system_state(status: Status) -> str:
    """``systemctl is-system-running`` inside a machine; ``starting`` before there is an answer."""
    return in_guest(status, "systemctl", "is-system-running", timeout_s=5) or "starting"


def launch(fleet: Fleet, machine: Machine, entry: Path) -> None:
    """Start a machine's supervisor unless it runs; does not wait for the machine to be up.

    Args:
        fleet: The machine's fleet, its network up.
        machine: With a complete root.
        entry: The tool's own script.

    Raises:
        FleetError: the machine has no complete root, or its supervisor does not come up.
    """
    if status_of(fleet, machine.name):
        return
    if not fleet.root(machine.name).is_dir():
        raise FleetError(f"{machine.name} is not complete: run create again")
    status_path(fleet, machine.name).unlink(missing_ok=True)
    (fleet.cache / "ccache").mkdir(parents=True, exist_ok=True)
    argv = ["unshare", "--mount", "--propagation", "slave", "--", sys.executable, str(entry)]
    argv += ["_supervise", "--dir", str(fleet.directory), "--id", fleet.id, machine.name]
    with fleet.console(machine.name).open("ab") as console:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,
        )
    wait_until(
        lambda: status_of(fleet, machine.name) is not None or process.poll() is not None,
        deadline_s=15,
    )
    if status_of(fleet, machine.name) is None:
        raise FleetError(failure(fleet, machine.name, "did not start"))


def failure(fleet: Fleet, name: str, what: str) -> str:
    """An error text about a machine, with the end of its console log."""
    path = fleet.console(name)
    return f"{name} {what}; the end of {path}:\n{tail(path)}"


def answers_ssh(fleet: Fleet, name: str) -> bool:
    """Whether one gets into a machine by ssh."""
    own = ("-o", "ControlPath=none", "-o", "ConnectTimeout=2")
    command = ("ssh", "-F", fleet.ssh_config, *own, name, "true")
    return run(*command, check=False, timeout_s=10).returncode == 0


def wait_ready(fleet: Fleet, name: str, *, boots: int = 1, deadline_s: float = 120) -> float:
    """Wait until a machine is booted and answers ssh; gives the seconds it took.

    A machine with a cut network is ready when its systemd answers.

    Args:
        fleet: The machine's fleet.
        name: The machine.
        boots: Which boot of its supervisor to wait for.
        deadline_s: How long it may take, in seconds.

    Raises:
        FleetError: it went off or did not get there in time.
    """
    began = time.monotonic()
    state = "off"
    while time.monotonic() - began < deadline_s:
        status = status_of(fleet, name)
        if status is None:
            raise FleetError(failure(fleet, name, "went off while starting"))
        if status.boots >= boots and status.nspawn:
            state = system_state(status)
            if fleet.cut_mark(name).exists():
                if state in SYSTEM_STATES:
                    return time.monotonic() - began
            elif state in SYSTEM_STATES and answers_ssh(fleet, name):
                return time.monotonic() - began
        time.sleep(0.1)
    what = f"is not ready after {deadline_s:.0f} s (systemd says: {state})"
    raise FleetError(failure(fleet, name, what))


def reboot(fleet: Fleet, name: str) -> float:
    """Let a machine reboot itself and wait until it is back; gives the seconds it took."""
    status = status_of(fleet, name)
    if status is None:
        raise FleetError(f"{name} is off: start it")
    began = time.monotonic()
    in_guest(status, "systemctl", "reboot")
    access.hang_up(fleet.run_dir, fleet.machines[name])
    wait_ready(fleet, name, boots=status.boots + 1)
    return time.monotonic() - began


def cut_power(fleet: Fleet, machine: Machine) -> None:
    """Kill a machine as if its plug were pulled; nothing to do when it is off."""
    status = status_of(fleet, machine.name)
    if status:
        kill(status.pid, signal.SIGTERM)
        if not wait_until(lambda: process_start(status.pid) != status.start, deadline_s=10):
            kill(status.pid, signal.SIGKILL)  # its machine dies with it
    status_path(fleet, machine.name).unlink(missing_ok=True)
    _end_remains(fleet, machine, cgroups.hierarchy())
    aptcache.harvest(fleet.root(machine.name), aptcache.cache_of(fleet.cache, machine.suite))
