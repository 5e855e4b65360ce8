"""Updates under load lose nothing, what fails is put back, and the way back takes no download."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.harness import RIG, ROOT, Fleet, site_with
from tests.hammer import Conversations

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("disturbs")]

#: What playbooks/update.yml sets; here with the roles of rigs alone, and a shorter look.
UPDATE: dict[str, Any] = {
    "rigs_at_a_time": [1, "25%"],
    "generation_drain": True,
    "generation_soak_s": 2,
}
LLAMA_CPP, APP = "/opt/heartcode/llama.cpp", "/opt/heartcode/app"
GENERATIONS = "/var/lib/heartcode/generations"
#: All that a rig serves with.
STATE = (
    "sha256sum /etc/heartcode/heartcode.env /etc/heartcode/backends.json /etc/heartcode/llama/*.env"
    " /etc/systemd/system/heartcode* /opt/heartcode/libexec/heartcode-[lcg]* 2>/dev/null;"
    f" readlink {APP}/current {LLAMA_CPP}/current"
)


def states(fleet: Fleet) -> dict[str, str]:
    return {rig: fleet.ssh(rig, STATE, check=False) for rig in fleet.rigs}


def programs(fleet: Fleet, rig: str) -> set[str]:
    """The directories that the rig's llama-servers and its proxy really run from."""
    return set(
        fleet.ssh(
            rig,
            "for n in $(ls /etc/heartcode/llama | sed -n 's/[.]env$//p'); do"
            " readlink /proc/$(systemctl show -P MainPID heartcode-llama@$n)/exe; done;"
            " readlink /proc/$(systemctl show -P MainPID heartcode)/cwd",
        ).splitlines()
    )


def another_program(directory: Path) -> Path:
    """A copy of the repository whose program is another version, though it does the same."""
    tree = directory / "tree"
    left = shutil.ignore_patterns(".*", "tests", "docs", "*.gguf", "__pycache__")
    shutil.copytree(ROOT, tree, ignore=left)
    shutil.copy(ROOT / "ansible.cfg", tree)
    with (tree / "app/heartcode/__init__.py").open("a") as file:
        file.write("\n# Another version.\n")
    return tree


def another_llama_cpp(fleet: Fleet, cache: Path) -> dict[str, Any]:
    """Variables for another version of llama.cpp, whose package is in `cache` and works as well."""
    variables = {
        "llama_cpp_cmake_extra_options": ["-DHEARTCODE_TEST=1"],
        "llama_cpp_control_cache_dir": str(cache),
    }
    done = fleet.playbook("-e", json.dumps(variables), playbook="tests/fleet/name_version.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    version = (cache / "name").read_text()
    now = fleet.ssh("rig1", f"readlink {LLAMA_CPP}/current")
    fleet.ssh("rig1", f"tar -C {LLAMA_CPP} --transform s/^{now}/{version}/ -czf /tmp/new.tgz {now}")
    archive = cache / f"{version}.tar.gz"
    fleet.copy_from("rig1", "/tmp/new.tgz", archive)  # noqa: S108 - of a machine of our own
    fleet.ssh("rig1", "rm /tmp/new.tgz")
    assert tarfile.is_tarfile(archive)
    checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
    archive.with_name(f"{archive.name}.sha256").write_text(f"{checksum}\n")
    return variables


def roll_back(fleet: Fleet, *arguments: str) -> str:
    done = fleet.playbook(*arguments, playbook="playbooks/rollback.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_updates_and_the_way_back_lose_nothing(fleet: Fleet, tmp_path: Path) -> None:
    before, ran = states(fleet), {rig: programs(fleet, rig) for rig in fleet.rigs}
    tree = another_program(tmp_path)
    new = another_llama_cpp(fleet, tmp_path)
    try:
        with Conversations(fleet) as load:
            done = fleet.play(site_with(*RIG), limit="rigs", tree=tree, **new, **UPDATE)
            assert done.returncode == 0, done.stdout + done.stderr
            assert load.failures == []
            for rig in fleet.rigs:
                assert not programs(fleet, rig) & ran[rig], "all of it runs the new versions"

            looked = roll_back(fleet, "--check")
            assert "goes back to what was kept at" in looked
            assert all(not programs(fleet, rig) & ran[rig] for rig in fleet.rigs)
            start = time.monotonic()
            roll_back(fleet)
            print(f"rollback took {time.monotonic() - start:.0f} s")
        assert states(fleet) == before
        assert {rig: programs(fleet, rig) for rig in fleet.rigs} == ran
        starts = fleet.starts()
        assert "is back already at" in roll_back(fleet)
        assert fleet.started_again(starts) == set()
    finally:
        fleet.deploy(*RIG, limit="rigs")
    assert states(fleet) == before


def model_file(fleet: Fleet, rig: str) -> tuple[str, str]:
    """The path of the model that the rig's first backend has, and its SHA-256."""
    path = fleet.ssh(rig, "sed -n s/^MODEL_PATH=//p /etc/heartcode/llama/0.env")
    return path, fleet.ssh(rig, f"sha256sum {path}").split()[0]


def test_another_file_under_a_model_s_name_can_be_taken_back(fleet: Fleet, tmp_path: Path) -> None:
    """A file that is replaced is there still for those that serve with it, or shall again."""
    before, had = states(fleet), {rig: model_file(fleet, rig) for rig in fleet.rigs}
    file = tmp_path / "counting.gguf"
    make: list[str | Path] = [
        sys.executable,
        ROOT / "scripts/make_demo_model.py",
        "--numbers=4000",
        file,
    ]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    new = hashlib.sha256(file.read_bytes()).hexdigest()
    try:
        with Conversations(fleet):
            done = fleet.play_roles(*RIG, limit="rigs", model_src=str(file), **UPDATE)
            assert done.returncode == 0, done.stdout + done.stderr
            assert {model_file(fleet, rig)[1] for rig in fleet.rigs} == {new}
            roll_back(fleet)
        assert {rig: model_file(fleet, rig) for rig in fleet.rigs} == had
        assert states(fleet) == before
    finally:
        for rig in fleet.rigs:
            fleet.ssh(rig, f"ln -f {had[rig][0]} /var/lib/heartcode/models/counting.gguf")
        fleet.deploy(*RIG, limit="rigs")
    assert states(fleet) == before


@pytest.mark.ci
def test_keys_and_nginx_s_configuration_change_under_load(fleet: Fleet, tmp_path: Path) -> None:
    keys = [
        {"name": "default", "key": fleet.key},
        {"name": "anna", "key": f"key-{uuid.uuid4()}", "parallel": 1},
    ]
    try:
        with Conversations(fleet):
            fleet.set_up_gateway(
                tmp_path, gateway_api_keys=keys, gateway_client_max_body_size="11m"
            )
            fleet.set_up_gateway(tmp_path)
    finally:
        fleet.set_up_gateway(tmp_path)


@pytest.mark.ci
def test_an_update_that_fails_on_the_first_rig_puts_it_back_and_ends_there(fleet: Fleet) -> None:
    before, starts = states(fleet), fleet.starts()
    bad: dict[str, Any] = {"llama_server_extra_args": "--no-such-option"}
    with Conversations(fleet):
        done = fleet.play_roles(*RIG, limit="rigs", **bad, **UPDATE)
    assert done.returncode != 0
    told = " ".join((done.stdout + done.stderr).split())
    assert "rig1 was not changed: " in told
    assert "It serves with what it had before" in told
    assert "playbooks/rollback.yml" in told
    assert states(fleet) == before
    assert {rig for rig, _ in fleet.started_again(starts)} == {"rig1"}
    assert fleet.ssh("rig1", "ls /run/heartcode/draining", check=False) == ""


def test_what_fails_after_the_switch_is_put_back_whole(fleet: Fleet, tmp_path: Path) -> None:
    """The new version of llama.cpp and new settings serve already when the proxy cannot."""
    before, ran = states(fleet), programs(fleet, "rig1")
    new = another_llama_cpp(fleet, tmp_path)
    bad: dict[str, Any] = {"app_settings": {"HEARTCODE_MAX_TOKENS": "many"}}
    with Conversations(fleet):
        done = fleet.play_roles(*RIG, limit="rigs", **new, **bad, **UPDATE)
    assert done.returncode != 0
    assert "rig1 was not changed: " in " ".join((done.stdout + done.stderr).split())
    assert states(fleet) == before
    assert programs(fleet, "rig1") == ran


@pytest.mark.ci
def test_where_nothing_is_kept_a_way_back_is_refused(fleet: Fleet) -> None:
    before = states(fleet)
    for rig in fleet.rigs:
        fleet.ssh(rig, f"mv {GENERATIONS} {GENERATIONS}.away")
    try:
        done = fleet.playbook(playbook="playbooks/rollback.yml")
        assert done.returncode != 0
        told = " ".join((done.stdout + done.stderr).split())
        assert "rig1 has nothing to go back to" in told
        assert states(fleet) == before
    finally:
        for rig in fleet.rigs:
            fleet.ssh(rig, f"rm -rf {GENERATIONS}; mv {GENERATIONS}.away {GENERATIONS}")
