"""The fleet tool with a real machine: boot, reboot, power cut, network cut, crashes, clean end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.fleet
# Accidents of the tool alone, and a second release: a deployment needs what the other tests ask.
accident = pytest.mark.long

_TOOL = Path(__file__).resolve().parents[2] / "scripts" / "fleet.py"


@dataclass(frozen=True)
class Tool:
    """scripts/fleet.py with its own state directory."""

    directory: Path

    def __call__(self, command: str, *words: str, ok: bool = True) -> str:
        """Run a command; gives all that it prints."""
        done = subprocess.run(
            [sys.executable, _TOOL, command, "--dir", self.directory, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done.stdout

    def ssh(self, name: str, command: str, *, ok: bool = True) -> str:
        done = subprocess.run(
            ["ssh", "-F", self.directory / "ssh_config", "-o", "ConnectTimeout=2", name, command],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stderr
        return done.stdout.strip()

    @property
    def fleet(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads((self.directory / "fleet.json").read_text())
        return data

    def machine(self, name: str) -> dict[str, str]:
        rows = json.loads(self("list", "--json"))
        return next(row for row in rows if row["name"] == name)

    def status(self, name: str) -> dict[str, Any]:
        path = Path("/run/heartcode-fleet", self.fleet["id"], f"{name}.json")
        data: dict[str, Any] = json.loads(path.read_text())
        return data


def _eventually(condition: Callable[[], bool], deadline_s: float = 20) -> bool:
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def _traces(fleet_id: str, directory: Path) -> list[str]:
    """All that is left of a fleet on this host."""
    found = [f"link {p.name}" for p in Path("/sys/class/net").iterdir() if fleet_id in p.name]
    tables = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    found += [line for line in tables.stdout.splitlines() if fleet_id in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if "pytest" not in " ".join(words) and any(
            word == fleet_id or f"hc-{fleet_id}" in word or f"/{fleet_id}/" in word
            for word in words
        ):
            found.append(f"process {process.name}: {' '.join(words)}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [line for line in mounts if str(directory) in line]
    found += [str(p) for p in Path("/run/heartcode-fleet").glob(f"{fleet_id}*")]
    for pattern in ("heartcode-fleet/*", "*/heartcode-fleet/*"):
        found += [str(p) for p in Path("/sys/fs/cgroup").glob(pattern) if p.name == fleet_id]
    found += [str(p) for p in Path("/run/systemd/nspawn").glob(f"*/hc-{fleet_id}-*")]
    return found


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """A fleet of one machine."""
    tool = Tool(tmp_path_factory.mktemp("fleet") / "with blank")
    try:
        tool("create", "rig1")
        yield tool
    finally:
        tool("destroy")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Tool]:
    """A state directory of its own, for tests that ruin their fleet."""
    tool = Tool(tmp_path / "fleet")
    try:
        yield tool
    finally:
        tool("destroy")


def test_machine_is_a_real_host(tool: Tool) -> None:
    assert tool.ssh("rig1", "hostname; whoami; cat /proc/1/comm") == "rig1\nroot\nsystemd"
    assert tool.ssh("rig1", "systemctl is-system-running") == "running"
    assert tool.ssh("rig1", "wc -c </etc/machine-id") == "33"
    address = tool.fleet["machines"]["rig1"]["address"]
    assert address in tool.ssh("rig1", "ip -brief address show host0")
    assert tool.ssh("rig1", "getent ahostsv4 rig1").startswith(address)


def test_machine_reaches_the_package_mirror(tool: Tool) -> None:
    output = tool.ssh("rig1", "apt-get -qq update 2>&1 && apt-get download -qq hello && ls")
    assert "hello_" in output


def test_create_again_changes_nothing(tool: Tool) -> None:
    before = tool.status("rig1"), tool.fleet
    tool("create")
    assert (tool.status("rig1"), tool.fleet) == before


def test_reboot_inside_brings_it_back(tool: Tool) -> None:
    tool.ssh("rig1", "echo kept >/root/mark")
    boots = tool.status("rig1")["boots"]
    # The connection may or may not end cleanly before the machine goes down.
    subprocess.run(
        ["ssh", "-F", tool.directory / "ssh_config", "rig1", "systemctl reboot"], check=False
    )
    assert _eventually(lambda: tool.status("rig1")["boots"] == boots + 1)
    assert _eventually(lambda: tool.machine("rig1")["state"] == "running")
    tool("start", "rig1")  # waits for ssh
    assert tool.ssh("rig1", "cat /root/mark") == "kept"
    tool("reboot", "rig1")
    assert tool.status("rig1")["boots"] == boots + 2


def test_power_cut_kills_everything_at_once(tool: Tool) -> None:
    tool.ssh(
        "rig1", 'systemd-run -q sh -c \'trap "" TERM; trap "touch /root/exited" EXIT; sleep 99\''
    )
    began = time.monotonic()
    tool("stop", "rig1")
    assert time.monotonic() - began < 60, "what takes no notice of SIGTERM is not waited for"
    assert tool.machine("rig1")["state"] == "stopped"
    began = time.monotonic()
    tool.ssh("rig1", "true", ok=False)
    # ServerAliveInterval times ServerAliveCountMax are 20 s.
    assert time.monotonic() - began < 15, "no kept connection waits for the dead"
    tool("stop", "rig1")
    tool("start", "rig1")
    assert tool.ssh("rig1", "ls /root/exited 2>&1 || echo unclean").endswith("unclean")


def test_power_off_inside_is_off(tool: Tool) -> None:
    subprocess.run(
        ["ssh", "-F", tool.directory / "ssh_config", "rig1", "systemctl poweroff"], check=False
    )
    assert _eventually(lambda: tool.machine("rig1")["state"] == "stopped")
    tool("create", "rig1")
    assert tool.machine("rig1")["state"] == "running"


def test_network_cut_survives_reboot_and_power_cut(tool: Tool) -> None:
    tool("cut", "rig1")
    assert tool.machine("rig1")["network"] == "cut"
    tool.ssh("rig1", "true", ok=False)
    link = Path(f"/sys/class/net/vb-{tool.fleet['machines']['rig1']['machine']}/operstate")
    tool("reboot", "rig1")
    assert link.read_text().strip() == "down"
    tool.ssh("rig1", "true", ok=False)
    tool("stop", "rig1")
    tool("start", "rig1")
    assert link.read_text().strip() == "down"
    tool.ssh("rig1", "true", ok=False)
    tool("restore", "rig1")
    assert tool.fleet["machines"]["rig1"]["address"] in tool.ssh("rig1", "ip -br address")


@accident
def test_killed_supervisor_is_a_power_cut_and_create_mends_it(tool: Tool) -> None:
    status = tool.status("rig1")
    os.kill(status["pid"], signal.SIGKILL)
    assert _eventually(lambda: tool.machine("rig1")["state"] == "stopped")
    assert _eventually(lambda: not Path(f"/proc/{status['nspawn']}").exists())
    tool("create", "rig1")
    assert tool.ssh("rig1", "echo back") == "back"


@accident
def test_stale_pid_file_of_a_living_process_is_not_believed(tool: Tool) -> None:
    tool("stop", "rig1")
    path = Path("/run/heartcode-fleet", tool.fleet["id"], "rig1.json")
    stale = {"pid": 1, "start": 0, "boot": "x", "nspawn": 1, "boots": 1}
    path.write_text(json.dumps(stale))
    assert tool.machine("rig1")["state"] == "stopped"
    tool("start", "rig1")
    assert tool.status("rig1")["pid"] != 1


@accident
def test_lost_bridge_and_rules_come_back(tool: Tool) -> None:
    subprocess.run(["ip", "link", "delete", tool.fleet["bridge"]], check=True)
    tool("stop", "rig1")
    tool("create", "rig1")
    assert tool.ssh("rig1", "echo back") == "back"


@accident
def test_second_machine_of_another_release_joins(tool: Tool) -> None:
    tool("create", "rig2:bookworm")
    assert "bookworm" in tool.ssh("rig2", "cat /etc/os-release")
    assert tool.ssh("rig2", "systemctl is-system-running") == "running"
    tool.ssh("rig1", "getent hosts rig2 && echo >/dev/tcp/rig2/22")
    keys = [line.split()[2] for line in (tool.directory / "known_hosts").read_text().splitlines()]
    assert len(set(keys)) == len(keys) == 2
    ids = {tool.ssh(name, "cat /etc/machine-id") for name in ("rig1", "rig2")}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("stop", "rig9"), "no machine 'rig9' in this fleet; its machines: rig1"),
        (("create", "Rig_9"), "cannot be a machine's name"),
        (("create", "rig1:bookworm"), "exists with trixie"),
        (("create", "rig9:potato"), "unknown Debian release 'potato'"),
    ],
)
def test_wrong_use_says_what_is_wrong(tool: Tool, words: tuple[str, ...], says: str) -> None:
    before = tool.fleet
    assert says in tool(*words, ok=False)
    assert tool.fleet == before


def test_no_fleet(own: Tool) -> None:
    assert "no fleet in" in own("list", ok=False)
    assert "no fleet in" in own("destroy")
    assert not own.directory.exists()


def test_two_fleets_and_destroy_leaves_nothing(tool: Tool, own: Tool) -> None:
    own("create", "rig1")
    fleet = own.fleet
    assert fleet["subnet"] != tool.fleet["subnet"]
    assert _traces(fleet["id"], own.directory)
    own("destroy")
    assert _traces(fleet["id"], own.directory) == []
    assert not own.directory.exists()
    assert tool.ssh("rig1", "echo untouched") == "untouched"


@accident
def test_killed_create_is_finished_by_the_next_one(own: Tool) -> None:
    command = [sys.executable, str(_TOOL), "create", "--dir", str(own.directory), "rig1", "rig2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        root = own.directory / "machines" / "rig1" / "root.new"
        assert _eventually(root.exists)
        process.kill()
    # What a crash in the middle of a copy leaves behind.
    (own.directory / "machines" / "rig2" / "root.new" / "etc").mkdir(parents=True, exist_ok=True)
    assert own.machine("rig1")["state"] == "incomplete"
    own("create", "rig1", "rig2")
    assert own.ssh("rig2", "systemctl is-system-running") == "running"
    assert not (own.directory / "machines" / "rig2" / "root.new").exists()


@accident
def test_machine_that_does_not_boot_shows_its_console(own: Tool) -> None:
    own("create", "rig1")
    own("stop", "rig1")
    init = own.directory / "machines/rig1/root/usr/lib/systemd/systemd"
    init.write_text("#!/bin/sh\necho the init is broken\nexit 7\n")
    output = own("start", "rig1", ok=False)
    assert "went off while starting" in output
    assert "the init is broken" in output


@accident
def test_damaged_records_do_not_hinder_destroy(own: Tool) -> None:
    own("create", "rig1")
    fleet_id = own.fleet["id"]
    (own.directory / "fleet.json").write_text("{")
    shutil.rmtree(Path("/run/heartcode-fleet", fleet_id))
    assert "damaged" in own("list", ok=False)
    own("destroy")
    assert _traces(fleet_id, own.directory) == []
    assert not own.directory.exists()


@accident
def test_lost_state_directory_is_an_orphan(tool: Tool, own: Tool) -> None:
    own("create", "rig1")
    fleet_id = own.fleet["id"]
    shutil.rmtree(own.directory, ignore_errors=True)
    output = own("destroy", "--orphans")
    assert re.search(rf"ended .* {fleet_id}", output)
    assert _traces(fleet_id, own.directory) == []
    assert tool.ssh("rig1", "echo untouched") == "untouched"


def test_copied_state_directory_cannot_harm_its_owner(tool: Tool, own: Tool) -> None:
    own.directory.mkdir()
    shutil.copy(tool.directory / "fleet.json", own.directory)
    assert "is a copy of" in own("create", ok=False)
    assert "whose machines stay" in own("destroy")
    assert not own.directory.exists()
    assert tool.ssh("rig1", "echo untouched") == "untouched"


@accident
def test_subnet_taken_after_a_reboot_of_the_host_is_left_to_others(own: Tool) -> None:
    own("create", "rig1")
    own("stop", "rig1")
    before = own.fleet
    # What a reboot forgets, and what another program may then take.
    shutil.rmtree(Path("/run/heartcode-fleet", before["id"]))
    subprocess.run(["ip", "link", "delete", before["bridge"]], check=True)
    subprocess.run(["ip", "route", "add", "blackhole", before["subnet"]], check=True)
    try:
        own("create")
    finally:
        subprocess.run(["ip", "route", "delete", "blackhole", before["subnet"]], check=True)
    assert own.fleet["subnet"] != before["subnet"]
    assert own.ssh("rig1", "getent hosts rig1").startswith(own.fleet["machines"]["rig1"]["address"])


@accident
def test_foreign_files_in_the_state_directory_are_kept(own: Tool) -> None:
    own.directory.mkdir()
    (own.directory / "notes").write_text("mine")
    own("create", "rig1")
    assert "stays" in own("destroy")
    assert [p.name for p in own.directory.iterdir()] == ["notes"]
