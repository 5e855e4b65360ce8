"""Base root file systems: made once per Debian release and recipe, then copied."""

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tools.fleet.system import FleetError, check_space, locked_file, remove_tree, run, say, tail

#: What a freshly installed Debian server has and Ansible needs; everything else is a role's task.
PACKAGES = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "sudo",
    "systemd",
    "systemd-sysv",
)

#: Settings of every machine, by path inside its root.
FILES: Mapping[str, str] = {
    # The cache of packages feeds the next fleet: apt must not delete what it installed.
    "etc/apt/apt.conf.d/99heartcode-fleet": (
        'APT::Keep-Downloaded-Packages "1";\nBinary::apt::APT::Keep-Downloaded-Packages "1";\n'
    ),
    # A "power cut" kills processes, not the kernel: nothing is lost without fsync.
    "etc/dpkg/dpkg.cfg.d/heartcode-fleet": "force-unsafe-io\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/locale.conf": "LANG=C.UTF-8\n",
    "etc/machine-id": "",
}

#: Run inside the new root. The host keys and machine id of an image would be every machine's.
#: The apt-daily timers of real hosts would hold apt's locks at random moments of a test.
COMMANDS = (
    "systemctl enable systemd-networkd.service",
    "systemctl disable apt-daily.timer apt-daily-upgrade.timer",
    "find /etc/ssh -name 'ssh_host_*' -delete",
    "rm -f /var/lib/dbus/machine-id",
)

IMAGE_MIB = 1024
_MAX_AGE_DAYS = 14
_DAY_S = 86400


def parse_mirrors(index_targets: str) -> tuple[str | None, str | None]:
    """Debian's mirror and its security mirror among apt's own sources.

    Args:
        index_targets: Lines ``URI|ORIGIN|LABEL`` from ``apt-get indextargets``. Origin and label
            are empty before the first ``apt-get update``; then the URI's last part decides.
    """
    main = security = None
    for line in index_targets.splitlines():
        uri, origin, label = (part.strip() for part in line.split("|"))
        last_part = urlsplit(uri).path.rstrip("/").rsplit("/", 1)[-1]
        if (origin, label) == ("Debian", "Debian") or (not origin and last_part == "debian"):
            main = main or uri
        if (origin, label) == ("Debian", "Debian-Security") or (
            not origin and last_part == "debian-security"
        ):
            security = security or uri
    return main, security


def find_mirrors(environment: Mapping[str, str]) -> tuple[str, str | None]:
    """Debian's mirror and, where this host has one, security mirror.

    Raises:
        FleetError: this host's apt knows no Debian mirror and no variable names one.
    """
    form = "$(REPO_URI)|$(ORIGIN)|$(LABEL)"
    targets = run("apt-get", "indextargets", "--format", form, "Identifier: Packages").stdout
    main, security = parse_mirrors(targets)
    main = environment.get("HEARTCODE_DEBIAN_MIRROR") or main
    security = environment.get("HEARTCODE_DEBIAN_SECURITY_MIRROR") or security
    if not main:
        raise FleetError(
            "apt on this host knows no Debian mirror:"
            " run apt-get update, or set HEARTCODE_DEBIAN_MIRROR to a mirror's URL"
        )
    return main, security


def source_lines(suite: str, main: str, security: str | None) -> list[str]:
    """Lines for sources.list of a machine."""
    lines = [f"deb {main} {suite} main", f"deb {main} {suite}-updates main"]
    if security:
        lines.append(f"deb {security} {suite}-security main")
    return lines


def recipe_hash(suite: str, sources: list[str]) -> str:
    """Changes whenever an image made now would differ in more than its packages' versions."""
    recipe = [suite, sources, PACKAGES, sorted(FILES.items()), COMMANDS]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]


class Image:
    """A cached root file system of one Debian release.

    Args:
        suite: Debian release.
        cache: The tool's cache directory.
        environment: May name mirrors.
    """

    def __init__(self, suite: str, cache: Path, environment: Mapping[str, str]) -> None:
        """Find out where the image lies; does not make it."""
        main, security = find_mirrors(environment)
        self.suite = suite
        self.sources = source_lines(suite, main, security)
        self.directory = cache / "images"
        self.name = f"{suite}-{recipe_hash(suite, self.sources)}"
        self.root = self.directory / self.name / "root"

    def ensure(self) -> None:
        """Make the image unless a recent one is there.

        Raises:
            FleetError: it cannot be made and there is no older one.
        """
        with locked_file(self.directory / ".lock"):
            age_days = self._age_days()
            if age_days is not None and age_days < _MAX_AGE_DAYS:
                return
            try:
                self._build()
            except FleetError as error:
                if age_days is None:
                    raise
                say(f"using the image of {age_days:.0f} days ago, a new one failed: {error}")
            self._prune()

    def copy_to(self, target: Path) -> None:
        """Copy the image's root; ``target`` is not complete before this returns."""
        with locked_file(self.directory / ".lock", shared=True):
            os.utime(self.root.parent)  # in use: see _prune
            # A killed command must not leave a copy that goes on behind the next one's back.
            ends_with_us = ("setpriv", "--pdeathsig", "KILL")
            run(*ends_with_us, "cp", "-a", "--reflink=auto", self.root, target)

    def _age_days(self) -> float | None:
        try:
            made = (self.root.parent / "made").stat().st_mtime
        except FileNotFoundError:
            return None
        return (time.time() - made) / _DAY_S

    def _build(self) -> None:
        check_space(self.directory, IMAGE_MIB, "making an image")
        for left_over in self.directory.glob(".building-*"):
            remove_tree(left_over)
        building = self.directory / f".building-{self.name}"
        building.mkdir()
        say(f"making the {self.suite} image (once, then cached)")
        try:
            self._mmdebstrap(building)
            for path, content in FILES.items():
                (building / "root" / path).write_text(content)
            (building / "made").touch()
            if self.root.parent.exists():
                outdated = self.directory / f".building-{self.name}.old"
                self.root.parent.rename(outdated)
                building.rename(self.root.parent)
                remove_tree(outdated)
            else:
                building.rename(self.root.parent)
        except BaseException:
            remove_tree(building)
            raise
        say(f"the {self.suite} image is ready")

    def _mmdebstrap(self, building: Path) -> None:
        log_path = self.directory / f"{self.name}.log"
        command = [
            *("setpriv", "--pdeathsig", "KILL"),
            # Own namespaces: whatever ends it ends all of it, mounts included.
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("mmdebstrap", "--mode=root", "--variant=minbase"),
            f"--include={','.join(PACKAGES)}",
            # `ansible --check` on a pristine host looks packages up in the lists.
            "--skip=cleanup/apt/lists",
            *(f'--customize-hook=chroot "$1" {command}' for command in COMMANDS),
            *(self.suite, str(building / "root"), *self.sources),
        ]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd="/"
            )
            try:
                self._watch(process, log_path)
            except BaseException:
                process.send_signal(signal.SIGKILL)
                process.wait()
                raise
        if process.returncode != 0:
            raise FleetError(
                f"mmdebstrap ended with code {process.returncode}:\n{tail(log_path, 12)}\n"
                f"whole log: {log_path}"
            )

    def _watch(self, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                return
            steps = re.findall(r"^I: (.*)", tail(log_path, 500), re.MULTILINE)
            say(f"  {self.suite} image: {steps[-1] if steps else 'starting'}")

    def _prune(self) -> None:
        for other in self.directory.iterdir():
            idle_days = (time.time() - other.stat().st_mtime) / _DAY_S
            if other != self.root.parent and other.name != ".lock" and idle_days > _MAX_AGE_DAYS:
                say(f"removing the unused image {other.name}")
                remove_tree(other)
