"""How one gets into the machines: keys, ``ssh_config``, ``known_hosts``, extra certificates."""

import os
import re
import ssl
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.fleet.model import Fleet, Machine
from tools.fleet.system import run, write_file

_HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_HOST_PACKAGED = Path("/usr/share/ca-certificates")
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

#: ``machine_dir`` / this: the public host key that the tool gave the machine.
HOST_KEY = "host_key.pub"


def make_key(path: Path, comment: str) -> str:
    """Make an ed25519 key pair unless there is one; gives the public key's line."""
    public = path.with_name(f"{path.name}.pub")
    if not (path.exists() and public.exists()):
        path.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)
    return public.read_text().strip()


def user_key(fleet: Fleet) -> str:
    """The public key that opens all machines of a fleet as root; made on first use."""
    return make_key(fleet.directory / "id_ed25519", f"heartcode-fleet-{fleet.id}")


def quote(path: Path) -> str:
    """A path as ssh_config(5) wants it: blanks need quotes, a percent sign is doubled."""
    return '"' + str(path).replace("%", "%%") + '"'


def ssh_config(fleet: Fleet) -> str:
    """The content of ``ssh_config``: every machine by name, as root, from any directory."""
    blocks = [
        f"Host {machine.name}\n"
        f"  HostName {machine.address}\n"
        f"  HostKeyAlias {machine.name}\n"
        f"  ControlPath {fleet.run_dir / str(machine.number)}.ssh\n"
        for machine in fleet.machines.values()
    ]
    if blocks:
        blocks.append(
            f"Host {' '.join(fleet.machines)}\n"
            "  User root\n"
            f"  IdentityFile {quote(fleet.directory / 'id_ed25519')}\n"
            "  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {quote(fleet.directory / 'known_hosts')}\n"
            "  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
            "  BatchMode yes\n"
            "  ConnectTimeout 10\n"
            # A cut network or a power cut is noticed after 20 seconds.
            "  ServerAliveInterval 5\n"
            "  ServerAliveCountMax 4\n"
            # One connection for all commands, kept for the next ones; see `hang_up`.
            "  ControlMaster auto\n"
            "  ControlPersist 60\n"
            "  LogLevel ERROR\n"
        )
    return f"# Written by scripts/fleet.py for fleet {fleet.id}.\n" + "\n".join(blocks)


def hang_up(run_dir: Path, machine: Machine | None = None) -> None:
    """Close the connections kept to a machine or to all: ours and those of Ansible.

    What is kept to a machine that has lost its power would swallow commands until it is found dead.
    """
    ours, of_ansible = (machine.number, machine.address) if machine else ("*", "*")
    for kept in (f"{ours}.ssh", f"{of_ansible}.ansible"):
        for control in run_dir.glob(kept):
            path = f"ControlPath={control}"
            run("ssh", "-F", "none", "-o", path, "-O", "exit", "any", check=False, timeout_s=5)
            control.unlink(missing_ok=True)


def known_hosts(keys: Iterable[tuple[str, str, str]]) -> str:
    """The content of ``known_hosts`` from name, address and public key of each machine."""
    lines = []
    for name, address, key in keys:
        kind, blob = key.split()[:2]
        lines.append(f"{name},{address} {kind} {blob}\n")
    return "".join(lines)


def write(fleet: Fleet) -> None:
    """Write ``ssh_config`` and ``known_hosts`` for the machines that are complete."""
    keys = []
    for machine in fleet.machines.values():
        path = fleet.machine_dir(machine.name) / HOST_KEY
        if path.exists():
            keys.append((machine.name, machine.address, path.read_text()))
    write_file(fleet.directory / "known_hosts", known_hosts(keys))
    write_file(fleet.ssh_config, ssh_config(fleet))


def extra_certificates(host_bundle: str, known_bundles: Sequence[str]) -> str:
    """PEM certificates of a bundle that are in none of the others, compared by content."""
    known = {
        ssl.PEM_cert_to_DER_cert(pem) for bundle in known_bundles for pem in _PEM.findall(bundle)
    }
    extra = {ssl.PEM_cert_to_DER_cert(pem): pem for pem in _PEM.findall(host_bundle)}
    return "".join(f"{pem}\n" for der, pem in extra.items() if der not in known)


def write_extra_ca(fleet: Fleet, image_roots: Iterable[Path]) -> None:
    """Write ``extra-ca.pem``: what this host trusts beyond Debian, such as a company's proxy.

    Debian's own certificates differ a little between releases: those that the host has from its
    package, and those in the images, are not extra. The file is empty if there are none.
    """
    host = _HOST_BUNDLE.read_text() if _HOST_BUNDLE.exists() else ""
    bundles = [root / os.path.relpath(_HOST_BUNDLE, "/") for root in image_roots]
    packaged = [*_HOST_PACKAGED.glob("mozilla/*.crt"), *(b for b in bundles if b.exists())]
    extra = extra_certificates(host, [path.read_text() for path in packaged])
    write_file(fleet.directory / "extra-ca.pem", extra)
