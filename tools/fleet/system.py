"""Running programs, knowing processes, locking and writing files."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

#: What the tool runs, and the Debian package that holds it.
PROGRAMS: Mapping[str, str] = {
    "apt-get": "apt",
    "ip": "iproute2",
    "mmdebstrap": "mmdebstrap",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
}

#: Knows the fleets of this machine, also those whose own directory was lost. Gone at a reboot, as
#: are the processes, bridges and firewall rules that it speaks of.
RUN_DIR = Path("/run/heartcode-fleet")

_TAIL_WIDTH = 300
_STARTED = time.monotonic()


class FleetError(Exception):
    """What a person can mend; its text says how. Shown without a traceback."""


def say(text: str) -> None:
    """Tell the person what happens, with the seconds since the command began."""
    print(f"[{time.monotonic() - _STARTED:5.1f} s] {text}", file=sys.stderr, flush=True)


def missing_programs(which: Callable[[str], str | None] = shutil.which) -> str | None:
    """One line that names the missing programs and the packages to install; None if all exist."""
    missing = [program for program in PROGRAMS if which(program) is None]
    if not missing:
        return None
    packages = sorted({PROGRAMS[program] for program in missing})
    return f"missing here: {', '.join(missing)}; install: apt-get install {' '.join(packages)}"


def run(
    *argv: str | Path,
    check: bool = True,
    stdin: str | None = None,
    timeout_s: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program and give back its output as text.

    Raises:
        FleetError: it failed (unless ``check`` is false), with its own words, or ran too long.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        if not check:
            return subprocess.CompletedProcess(words, 124, "", "timed out")
        raise FleetError(f"{' '.join(words)}: no end after {timeout_s} s") from None
    if check and done.returncode != 0:
        words_said = (done.stderr or done.stdout).strip().replace("\n", "; ")
        raise FleetError(f"{' '.join(words)}: exit code {done.returncode}: {words_said}")
    return done


def wait_until(condition: Callable[[], bool], *, deadline_s: float, step_s: float = 0.05) -> bool:
    """Wait for a condition; False when it did not come true in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(step_s)
    return True


def boot_id() -> str:
    """This boot of the kernel; process start times mean nothing in another one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def parse_stat(text: str) -> tuple[str, int, int]:
    """State letter, parent and start time (clock ticks since boot) from /proc/PID/stat.

    The program's name, in parentheses, may itself hold blanks and parentheses: proc(5).
    """
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[1]), int(fields[19])


def process_start(pid: int) -> int | None:
    """Start time of a living process in clock ticks; None when it is gone or a zombie."""
    try:
        state, _parent, start = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else start


def processes() -> Iterator[tuple[int, int, list[str]]]:
    """Pid, parent and arguments of every living process."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, parent, _start = parse_stat((entry / "stat").read_text())
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
        except (OSError, ValueError):
            continue
        if state not in "ZX":
            yield int(entry.name), parent, arguments


def kill(pid: int, signal_number: int) -> None:
    """Send a signal; a process that is already gone is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def write_file(path: Path, content: str, mode: int = 0o644) -> None:
    """Write a whole file beside its place and rename it, so that nobody sees half of it.

    A symbolic link at ``path`` is replaced, never followed: inside a guest's root it would point
    into the host.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
    temporary.replace(path)


@contextlib.contextmanager
def locked_file(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock between processes; says so when it has to wait for another command."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _flock(file.fileno(), str(path), shared=shared)
        yield


@contextlib.contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Hold a directory for one command; it is made if missing and may be removed while held.

    At the end it is removed if it is empty: a command that failed early leaves nothing.
    """
    while True:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _flock(descriptor, str(path), shared=False)
            if _is_still(descriptor, path):
                try:
                    yield
                finally:
                    with contextlib.suppress(OSError):
                        path.rmdir()
                return
            # Its last holder removed it while we waited: the lock is on a directory that is gone.
        finally:
            os.close(descriptor)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _flock(descriptor: int, what: str, *, shared: bool) -> None:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another fleet command to end (lock on {what})")
        fcntl.flock(descriptor, kind)


def remove_tree(path: Path) -> None:
    """Remove a directory tree, but nothing that is mounted into it."""
    command = ("rm", "-rf", "--one-file-system", "--", path)
    # A process that was killed just now may still have put a file into it.
    if not wait_until(lambda: run(*command, check=False).returncode == 0, deadline_s=2):
        run(*command)


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, shortened and without control characters; empty if there is none."""
    try:
        text = path.read_bytes()[-16384:].decode(errors="replace")
    except OSError:
        return ""
    printable = "".join(c for c in text if c in "\n\t" or c.isprintable())
    return "\n".join(line[:_TAIL_WIDTH] for line in printable.splitlines()[-lines:])


def check_space(path: Path, needed_mib: int, purpose: str) -> None:
    """Stop before a disk fills up.

    Raises:
        FleetError: less than ``needed_mib`` MiB are free where ``path`` (existing) lies.
    """
    free_mib = shutil.disk_usage(path).free // 2**20
    if free_mib < needed_mib:
        raise FleetError(
            f"{purpose} needs {needed_mib} MiB in {path}, only {free_mib} MiB are free there"
        )
