"""Back to the version of llama.cpp before, and forth again."""

from tests.fleet.counting import chat, count_to
from tests.fleet.harness import Fleet

ROOT = "/opt/heartcode/llama.cpp"


def current(fleet: Fleet, rig: str) -> str:
    return fleet.ssh(rig, f"readlink {ROOT}/current")


def running(fleet: Fleet, rig: str) -> str:
    """The directory from which the rig's first llama-server runs."""
    pid = fleet.ssh(rig, "systemctl show --property=MainPID --value heartcode-llama@0")
    return fleet.ssh(rig, f"readlink /proc/{pid}/exe").split("/")[-3]


def test_one_variable_goes_back_to_the_version_before(fleet: Fleet) -> None:
    described = {rig: current(fleet, rig) for rig in fleet.rigs}
    before = "000000000-cpu-000000000000"
    for rig in fleet.rigs:
        fleet.ssh(rig, f"cp -a {ROOT}/{described[rig]} {ROOT}/{before}")
    try:
        for _ in range(2):  # the second time it is there already
            done = fleet.playbook("--extra-vars", "llama_cpp_rollback=true")
            assert done.returncode == 0, done.stdout + done.stderr
            for rig in fleet.rigs:
                assert current(fleet, rig) == before
                assert running(fleet, rig) == before
        answer = chat(fleet.url, max_tokens=5).json()
        assert answer["choices"][0]["message"]["content"].split() == count_to(5)
    finally:
        done = fleet.playbook()
        for rig in fleet.rigs:
            fleet.ssh(rig, f"rm -r {ROOT}/{before}")
    assert done.returncode == 0, done.stdout + done.stderr
    for rig in fleet.rigs:
        assert current(fleet, rig) == described[rig]
        assert running(fleet, rig) == described[rig]


def test_without_a_version_before_nothing_is_changed(fleet: Fleet) -> None:
    described = {rig: current(fleet, rig) for rig in fleet.rigs}
    done = fleet.playbook("--extra-vars", "llama_cpp_rollback=true")
    assert done.returncode != 0
    assert "has no other version of llama.cpp than" in " ".join(done.stdout.split())
    assert {rig: current(fleet, rig) for rig in fleet.rigs} == described
