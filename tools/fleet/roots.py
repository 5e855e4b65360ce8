"""A machine's own root file system: a copy of an image with a name, keys and an address."""

import ipaddress
from pathlib import Path

from tools.fleet import access, aptcache
from tools.fleet.image import Image
from tools.fleet.model import Fleet, Machine
from tools.fleet.network import uplink_mtu
from tools.fleet.system import check_space, remove_tree, say, write_file

ROOT_MIB = 768
_BEGIN = "# begin heartcode-fleet"
_END = "# end heartcode-fleet"


def with_block(text: str, lines: list[str]) -> str:
    """Put the tool's lines into a file that others write too, in place of its older ones."""
    kept: list[str] = []
    inside = False
    for line in text.splitlines():
        if line == _BEGIN:
            inside = True
        elif line == _END:
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join([*kept, _BEGIN, *lines, _END]) + "\n"


def hosts_lines(fleet: Fleet) -> list[str]:
    """Lines of /etc/hosts: every machine of the fleet."""
    return [f"{machine.address} {machine.name}" for machine in fleet.machines.values()]


def network_settings(fleet: Fleet, machine: Machine, mtu: int) -> str:
    """systemd.network(5) for ``host0``, a machine's end of its cable."""
    return (
        "[Match]\nName=host0\n\n"
        f"[Link]\nMTUBytes={mtu}\n\n"
        f"[Network]\nAddress={machine.address}/24\nGateway={fleet.host_address}\n"
        "LinkLocalAddressing=no\nIPv6AcceptRA=no\n"
    )


def nameservers(resolv_conf: str) -> list[str]:
    """Addresses of name servers that a machine can reach: not the host's own loopback."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if words[:1] != ["nameserver"]:
            continue
        try:
            address = ipaddress.IPv4Address(words[1])
        except (IndexError, ValueError):  # the machines have IPv4 alone
            continue
        if not address.is_loopback:
            found.append(str(address))
    return found


def resolver_settings(candidates: list[Path]) -> tuple[str, list[str]]:
    """resolv.conf for the machines, and the name servers in it.

    Args:
        candidates: The host's files, best first. systemd-resolved's stub listens on loopback, its
            second file has the real servers.
    """
    for path in candidates:
        text = path.read_text() if path.exists() else ""
        servers = nameservers(text)
        if servers:
            searches = [line for line in text.splitlines() if line.startswith(("search", "domain"))]
            return "\n".join([*searches, *(f"nameserver {s}" for s in servers)]) + "\n", servers
    return "", []


def host_resolver() -> tuple[str, list[str]]:
    """resolv.conf for the machines from this host's, and the name servers in it."""
    return resolver_settings([Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")])


def create(fleet: Fleet, machine: Machine, image: Image) -> None:
    """Make a machine's root, beside its place first: a crashed copy is never taken for whole."""
    directory = fleet.machine_dir(machine.name)
    directory.mkdir(parents=True, exist_ok=True)
    check_space(directory, ROOT_MIB, f"the root of {machine.name}")
    new = directory / "root.new"
    if new.exists():
        remove_tree(new)
    image.copy_to(new)
    write_file(new / "etc/hostname", f"{machine.name}\n")
    write_file(new / "etc/resolv.conf", host_resolver()[0])
    key_path = new / "etc/ssh/ssh_host_ed25519_key"
    write_file(
        directory / access.HOST_KEY, access.make_key(key_path, f"root@{machine.name}") + "\n"
    )
    aptcache.fill(new, aptcache.cache_of(fleet.cache, machine.suite))
    new.rename(fleet.root(machine.name))
    say(f"{machine.name}: {machine.suite} root made")


def settle(fleet: Fleet, machine: Machine) -> None:
    """Bring what the fleet decides up to date in a complete root: names, key, address.

    The rest of these files belongs to the machine and whoever deploys it.
    """
    root = fleet.root(machine.name)
    network = network_settings(fleet, machine, uplink_mtu())
    write_file(root / "etc/systemd/network/10-host0.network", network)
    hosts = root / "etc/hosts"
    text = hosts.read_text() if hosts.exists() else "127.0.0.1 localhost\n::1 localhost\n"
    write_file(hosts, with_block(text, hosts_lines(fleet)))
    ssh_dir = root / "root/.ssh"
    ssh_dir.mkdir(mode=0o700, exist_ok=True)
    keys = ssh_dir / "authorized_keys"
    text = keys.read_text() if keys.exists() else ""
    write_file(keys, with_block(text, [access.user_key(fleet)]), 0o600)
