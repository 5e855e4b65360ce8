"""A new version of llama.cpp: what must not be installed."""

import hashlib
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.counting import chat, count_to
from tests.fleet.harness import Fleet

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("disturbs")]

ROLES = ("gpu_driver", "llama_cpp", "model", "llama_server")
ROOT = "/opt/heartcode/llama.cpp"


def current(fleet: Fleet, rig: str) -> str:
    return fleet.ssh(rig, f"readlink {ROOT}/current")


def described(cache: Path) -> dict[str, Any]:
    """Variables for a version that no rig has, whose package lies in `cache`."""
    return {
        "llama_cpp_cmake_extra_options": ["-DHEARTCODE_TEST=1"],
        "llama_cpp_control_cache_dir": str(cache),
    }


def package(fleet: Fleet, cache: Path, server: str) -> Path:
    """Make a package of that version whose llama-server is a script."""
    done = fleet.playbook("-e", str(described(cache)), playbook="tests/fleet/name_version.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    version = (cache / "name").read_text()
    program = cache / version / "bin/llama-server"
    program.parent.mkdir(parents=True)
    program.write_text(server)
    program.chmod(0o755)
    (cache / version / "manifest.json").write_text("{}\n")
    archive = cache / f"{version}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cache / version, version)
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_name(f"{archive.name}.sha256").write_text(f"{checksum}\n")
    return archive


def assert_nothing_is_switched(fleet: Fleet, before: dict[str, str], archive: Path) -> None:
    assert {rig: current(fleet, rig) for rig in fleet.rigs} == before
    version = archive.name.removesuffix(".tar.gz")
    for rig in fleet.rigs:
        assert version not in fleet.ssh(rig, f"ls {ROOT}").split()
    answer = chat(fleet, max_tokens=5).json()
    assert answer["choices"][0]["message"]["content"].split() == count_to(5)


def test_a_binary_that_does_not_count_is_not_installed(fleet: Fleet, tmp_path: Path) -> None:
    before = {rig: current(fleet, rig) for rig in fleet.rigs}
    archive = package(fleet, tmp_path, "#!/bin/sh\necho no such library\nexit 3\n")
    done = fleet.play_roles(*ROLES, limit="rigs", **described(tmp_path))
    assert done.returncode != 0
    output = " ".join(done.stdout.split())
    assert "The new llama-server does not work on rig1" in output
    assert "Counting on the CPU: it ended with 3: no such library" in output
    assert_nothing_is_switched(fleet, before, archive)


def test_a_package_that_has_changed_is_not_installed(fleet: Fleet, tmp_path: Path) -> None:
    before = {rig: current(fleet, rig) for rig in fleet.rigs}
    archive = package(fleet, tmp_path, "#!/bin/sh\n")
    with archive.open("ab") as file:
        file.write(b"0")
    done = fleet.play_roles(*ROLES, limit="rigs", **described(tmp_path))
    assert done.returncode != 0
    assert "has changed since it was built" in " ".join(done.stdout.split())
    assert_nothing_is_switched(fleet, before, archive)
