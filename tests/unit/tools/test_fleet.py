"""The fleet tool's decisions that need neither root nor a machine."""

import ipaddress
import json
import os
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from tools.fleet import (
    access,
    aptcache,
    cgroups,
    cleanup,
    image,
    network,
    roots,
    supervisor,
    system,
)
from tools.fleet.model import Fleet, parse_request
from tools.fleet.system import FleetError


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    fleet = Fleet(
        directory=tmp_path / "fleet dir",
        id="0a1b",
        subnet=ipaddress.IPv4Network("10.183.4.0/24"),
        suite="trixie",
        cache=tmp_path / "cache",
    )
    fleet.directory.mkdir()
    fleet.add("gateway", "trixie")
    fleet.add("rig1", "bookworm")
    return fleet


# --- model -------------------------------------------------------------------------------------


def test_fleet_json_comes_back_as_it_was(fleet: Fleet) -> None:
    fleet.save()
    loaded = Fleet.load(fleet.directory)
    assert loaded == fleet
    data = json.loads((fleet.directory / "fleet.json").read_text())
    assert data["bridge"] == "hc-0a1b"
    assert data["subnet"] == "10.183.4.0/24"
    assert data["host_address"] == "10.183.4.1"
    assert data["machines"]["rig1"] == {
        "address": "10.183.4.11",
        "machine": "hc-0a1b-1",
        "number": 1,
        "suite": "bookworm",
    }


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "0a1b"}', '"text"'])
def test_damaged_fleet_json_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "fleet.json").write_text(content)
    with pytest.raises(FleetError, match="damaged"):
        Fleet.load(tmp_path)


def test_no_fleet_json_is_no_fleet(tmp_path: Path) -> None:
    assert Fleet.load(tmp_path) is None
    assert Fleet.load(tmp_path / "missing") is None


def test_interface_names_fit_whatever_the_machine_is_called(fleet: Fleet) -> None:
    for index in range(198):
        machine = fleet.add(f"a-rather-long-name-of-a-rig-{index}", "trixie")
        assert len(machine.host_link) <= 15
    addresses = {machine.address for machine in fleet.machines.values()}
    assert len(addresses) == 200
    with pytest.raises(FleetError, match="at most"):
        fleet.add("one-more", "trixie")


def test_a_number_is_never_given_twice(fleet: Fleet) -> None:
    del fleet.machines["gateway"]
    assert fleet.add("rig2", "trixie").number == 0
    assert fleet.add("rig3", "trixie").number == 2


def test_moving_keeps_numbers(fleet: Fleet) -> None:
    fleet.move_to(ipaddress.IPv4Network("172.29.1.0/24"))
    assert fleet.machines["rig1"].address == "172.29.1.11"
    assert fleet.machines["rig1"].machine == "hc-0a1b-1"


def test_request_names_releases() -> None:
    assert parse_request(["rig1", "rig2:bookworm"], "trixie") == {
        "rig1": "trixie",
        "rig2": "bookworm",
    }
    assert parse_request(["rig1"], None) == {"rig1": None}


@pytest.mark.parametrize(
    "words",
    [
        *(["Rig1"], ["-rig"], ["rig-"], ["a" * 64], [""], ["a/b"], ["a b"], ["localhost"]),
        *(["a", "a"], ["rig1:sid"], ["rig1:"], ["../x"], ["rig1\n"]),
    ],
)
def test_bad_requests_are_refused(words: list[str]) -> None:
    with pytest.raises(FleetError):
        parse_request(words, None)


def test_unknown_machine_error_names_the_known_ones(fleet: Fleet) -> None:
    with pytest.raises(FleetError, match="gateway, rig1"):
        fleet.find("rig9")


# --- network -----------------------------------------------------------------------------------


def test_subnet_keeps_clear_of_larger_and_smaller_networks() -> None:
    used = [ipaddress.IPv4Network(n) for n in ("10.183.0.0/23", "10.183.2.77/32")]
    assert str(network.free_subnet(used)) == "10.183.3.0/24"
    assert str(network.free_subnet([ipaddress.IPv4Network("10.0.0.0/8")])) == "172.29.0.0/24"


def test_no_free_subnet_is_an_error() -> None:
    with pytest.raises(FleetError, match="no free private /24"):
        network.free_subnet([ipaddress.IPv4Network("0.0.0.0/0")])


def test_networks_from_addresses_and_routes() -> None:
    addresses = [
        {"addr_info": [{"family": "inet", "local": "192.0.2.2", "prefixlen": 24}]},
        {"addr_info": [{"family": "inet6", "local": "fe80::1", "prefixlen": 64}]},
        {},
    ]
    routes = [
        {"dst": "default"},
        {"dst": "0.0.0.0/0"},
        {"dst": "10.77.0.0/24"},
        {"type": "local", "dst": "10.183.0.1"},
    ]
    found = [str(n) for n in network.parse_networks(addresses, routes)]
    assert found == ["10.77.0.0/24", "10.183.0.1/32", "192.0.2.0/24"]


def test_rules_replace_themselves(fleet: Fleet) -> None:
    rules = network.masquerade_rules(fleet)
    assert rules.index("delete table ip heartcode_0a1b") < rules.index("masquerade")
    assert "ip saddr 10.183.4.0/24 ip daddr != 10.183.4.0/24 masquerade" in rules


def test_firewalls_that_drop_forwarded_packets_are_found() -> None:
    forward = {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward"}
    ruleset = {
        "nftables": [
            {"metainfo": {}},
            {"chain": forward | {"policy": "drop"}},
            {"chain": forward | {"policy": "accept", "table": "open"}},
            {"chain": forward | {"policy": "drop", "hook": "input", "table": "in"}},
        ]
    }
    assert network.closed_forward_tables(ruleset) == ["ip filter"]


# --- image -------------------------------------------------------------------------------------

_MAIN = "http://mirror.example/debian/"
_SECURITY = "http://mirror.example/debian-security/"


@pytest.mark.parametrize(
    "targets",
    [
        f"http://x.example/n/|Other|Other\n{_SECURITY}|Debian|Debian-Security\n{_MAIN}|Debian|Debian",
        f"{_MAIN}|Debian|Debian\nhttp://b.example/|Debian|Debian\n{_SECURITY}|Debian|Debian-Security",
        f"{_SECURITY}||\n{_MAIN}||\nhttp://x.example/other/||",
    ],
)
def test_mirrors_of_the_host(targets: str) -> None:
    assert image.parse_mirrors(targets) == (_MAIN, _SECURITY)


def test_mirrors_of_another_distribution_do_not_count() -> None:
    assert image.parse_mirrors("http://x.example/debian/|Mint|Mint") == (None, None)
    assert image.parse_mirrors("") == (None, None)


def test_sources_without_security_mirror() -> None:
    assert image.source_lines("trixie", _MAIN, None) == [
        f"deb {_MAIN} trixie main",
        f"deb {_MAIN} trixie-updates main",
    ]


def test_recipe_hash_sees_the_mirror_and_the_release() -> None:
    hashes = {image.recipe_hash(s, [m]) for s in ("trixie", "bookworm") for m in ("a", "b")}
    assert len(hashes) == 4


# --- roots and access --------------------------------------------------------------------------


def test_block_keeps_what_others_wrote_and_replaces_its_own() -> None:
    first = roots.with_block("127.0.0.1 localhost\n", ["10.0.0.1 old"])
    second = roots.with_block(first + "10.9.9.9 theirs\n", ["10.0.0.2 new"])
    assert "old" not in second
    assert second.count("10.0.0.2 new") == 1
    assert "127.0.0.1 localhost\n" in second
    assert "10.9.9.9 theirs\n" in second


def test_resolver_skips_the_stub_on_loopback(tmp_path: Path) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\noptions edns0\n")
    real.write_text("# x\nsearch lan\nnameserver fe80::1%eth0\nnameserver 192.0.2.53\nnameserver\n")
    content, servers = roots.resolver_settings([stub, tmp_path / "missing", real])
    assert servers == ["192.0.2.53"]
    assert content == "search lan\nnameserver 192.0.2.53\n"
    assert roots.resolver_settings([stub]) == ("", [])


def test_ssh_config_is_understood_by_ssh_also_with_blanks_in_paths(fleet: Fleet) -> None:
    fleet.ssh_config.write_text(access.ssh_config(fleet))
    shown = subprocess.run(
        ["ssh", "-G", "-F", fleet.ssh_config, "rig1"], capture_output=True, text=True, check=True
    ).stdout
    lines = shown.splitlines()
    assert "hostname 10.183.4.11" in lines
    assert "user root" in lines
    assert "stricthostkeychecking true" in lines
    assert f"identityfile {fleet.directory}/id_ed25519" in shown.replace('"', "")


def test_kept_connections_of_one_machine_or_of_all_are_closed(fleet: Fleet, tmp_path: Path) -> None:
    """Also those whose other end is dead already, of which only the socket is left."""
    gateway = fleet.machines["gateway"]
    names = ("0.ssh", f"{gateway.address}.ansible", "1.ssh", "10.183.4.11.ansible", "10.ssh")
    kept = [tmp_path / name for name in names]
    for path in kept:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    status = tmp_path / "rig1.json"
    status.touch()
    access.hang_up(tmp_path, gateway)
    assert [path for path in kept if path.exists()] == kept[2:]
    access.hang_up(tmp_path)
    assert [path for path in (*kept, status) if path.exists()] == [status]


def test_known_hosts_have_name_and_address() -> None:
    line = access.known_hosts([("rig1", "10.0.0.9", "ssh-ed25519 AAAA root@rig1\n")])
    assert line == "rig1,10.0.0.9 ssh-ed25519 AAAA\n"


def test_extra_certificates_are_those_that_no_other_bundle_has() -> None:
    def pem(content: bytes) -> str:
        return ssl.DER_cert_to_PEM_cert(content)

    host = "# comment\n" + pem(b"company" * 20) + pem(b"debian" * 20) + pem(b"company" * 20)
    wrapped_otherwise = pem(b"debian" * 20).replace("\n", "\r\n")
    extra = access.extra_certificates(host, [wrapped_otherwise])
    assert extra == pem(b"company" * 20)
    assert access.extra_certificates("", []) == ""


# --- packages ----------------------------------------------------------------------------------


def test_packages_go_to_the_cache_and_back(tmp_path: Path) -> None:
    old, new, store = tmp_path / "old", tmp_path / "new", tmp_path / "store"
    archives = old / aptcache.ARCHIVES
    (archives / "partial").mkdir(parents=True)
    (archives / "a_1_amd64.deb").write_text("a")
    (archives / "lock").touch()
    (archives / "partial" / "b_1_amd64.deb").write_text("half")
    assert aptcache.harvest(old, store) == 1
    assert aptcache.harvest(old, store) == 0
    assert aptcache.fill(new, store) == 1
    assert [p.name for p in (new / aptcache.ARCHIVES).iterdir()] == ["a_1_amd64.deb"]


def test_harvest_of_a_machine_that_was_never_made(tmp_path: Path) -> None:
    assert aptcache.harvest(tmp_path / "missing", tmp_path / "store") == 0


# --- processes ---------------------------------------------------------------------------------


def test_stat_with_a_hostile_program_name() -> None:
    text = "42 (a) b (c) S 7 " + " ".join(str(n) for n in range(5, 53))
    assert system.parse_stat(text) == ("S", 7, 22)


def test_start_time_tells_processes_apart() -> None:
    assert system.process_start(os.getpid()) is not None
    finished = subprocess.Popen(["true"])
    finished.wait()
    assert system.process_start(finished.pid) is None


@pytest.mark.parametrize(
    "change", [{}, {"start": 1}, {"boot": "another boot"}, {"pid": 2**22 + 1}, {"extra": 1}]
)
def test_pid_file_counts_only_for_the_process_that_wrote_it(
    tmp_path: Path, change: dict[str, object]
) -> None:
    mine = {
        "pid": os.getpid(),
        "start": system.process_start(os.getpid()),
        "boot": system.boot_id(),
        "nspawn": 0,
        "boots": 1,
    }
    path = tmp_path / "rig1.json"
    path.write_text(json.dumps(mine | change))
    assert (supervisor.read_status(path) is not None) == (not change)


@pytest.mark.parametrize("content", ["", "{}", "[]", "12", "null"])
def test_damaged_pid_file_is_no_process(tmp_path: Path, content: str) -> None:
    path = tmp_path / "rig1.json"
    path.write_text(content)
    assert supervisor.read_status(path) is None
    assert supervisor.read_status(tmp_path / "missing") is None


def test_own_processes_are_known_by_their_arguments() -> None:
    keeper = ["python3", "/r/fleet.py", "_supervise", "--dir", "/d", "--id", "0a1b", "rig1"]
    assert cleanup.fleet_process(keeper) == ("0a1b", Path("/d"))
    nspawn = ["/usr/bin/systemd-nspawn", "--boot", "--network-bridge=hc-0a1b", "--x"]
    assert cleanup.fleet_process(nspawn) == ("0a1b", None)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["grep", "_supervise --dir /d --id 0a1b rig1"],
        ["vi", "systemd-nspawn", "--network-bridge=hc-0a1b"],
        ["systemd-nspawn", "--network-bridge=hcbr0"],
        ["systemd-nspawn", "--network-bridge=hc-0a1b2"],
    ],
)
def test_foreign_processes_are_left_alone(arguments: list[str]) -> None:
    assert cleanup.fleet_process(arguments) is None


def test_nspawn_command_escapes_colons(fleet: Fleet) -> None:
    fleet.cache = Path("/c:d")
    command = supervisor.nspawn_command(fleet, fleet.machines["rig1"])
    assert "--bind=/c\\:d/ccache:/var/cache/heartcode/ccache" in command
    assert "--hostname=rig1" in command
    assert "--network-bridge=hc-0a1b" in command


def test_unified_hierarchy_is_found() -> None:
    old = "30 29 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    new = "41 29 0:37 / /sys/fs/cgroup/uni\\040fied rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
    part = "42 29 0:37 /part /elsewhere rw - cgroup2 cgroup2 rw\n"
    assert cgroups.mount_point(old + part + new) == Path("/sys/fs/cgroup/uni fied")
    assert cgroups.mount_point(old) is None


# --- files and programs ------------------------------------------------------------------------


def test_missing_programs_name_their_packages() -> None:
    assert system.missing_programs(lambda _name: "/bin/x") is None
    line = system.missing_programs(lambda name: None if name in {"nft", "nsenter"} else "/bin/x")
    assert line == "missing here: nft, nsenter; install: apt-get install nftables util-linux"


def test_write_file_replaces_a_link_instead_of_following_it(tmp_path: Path) -> None:
    target, link = tmp_path / "host-file", tmp_path / "link"
    target.write_text("precious")
    link.symlink_to(target)
    system.write_file(link, "new", 0o600)
    assert target.read_text() == "precious"
    assert link.read_text() == "new"
    assert link.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["host-file", "link"]


def test_directory_lock_survives_the_removal_of_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "fleet"
    with system.locked_directory(directory):
        directory.rmdir()
    with system.locked_directory(directory):
        assert directory.is_dir()


def test_full_disk_is_said_before_it_is_full(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="making an image needs 999999999 MiB"):
        system.check_space(tmp_path, 999_999_999, "making an image")


def test_failing_program_gives_its_own_words() -> None:
    with pytest.raises(FleetError, match="exit code 3: broken; twice"):
        system.run("sh", "-c", "echo broken >&2; echo twice >&2; exit 3")


def test_tail_drops_control_sequences(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    log.write_bytes(b"one\r\n\x1b[0mtwo\n\xff\nthree\n")
    assert system.tail(log, 2).splitlines()[-1] == "three"
    assert "\x1b" not in system.tail(log)
    assert system.tail(tmp_path / "missing") == ""
