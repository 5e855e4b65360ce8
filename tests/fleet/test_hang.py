"""A llama-server that stands still on a real host: its streams go on and systemd restarts it.

With the limits that a rig has: a stream moves on after 30 s, and the backend is judged after 45 s.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.counting import chat, count_to, events, text_of
from tests.fleet import striking
from tests.fleet.harness import Fleet, wait_for

HUNG = "/run/heartcode/hung"


def resumes(fleet: Fleet) -> dict[str, float]:
    """Return how many streams of each rig have gone on because their backend was silent."""
    name = 'inference_resumes_total{reason="silent"}'
    return {
        rig: sum(
            float(line.split()[-1])
            for line in fleet.ssh(rig, "curl -fsS http://127.0.0.1:9091/metrics").splitlines()
            if line.startswith(name)
        )
        for rig in fleet.rigs
    }


def pids(fleet: Fleet) -> dict[tuple[str, int], str]:
    """Return the process of each backend."""
    show = "systemctl show --value --property=MainPID heartcode-llama@"
    return {(rig, n): fleet.ssh(rig, f"{show}{n}") for rig, n in fleet.backends()}


def signs(fleet: Fleet, rig: str) -> str:
    """Return what lies in the directory of the signs."""
    return fleet.ssh(rig, f"ls -A {HUNG}")


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_streams_outlive_a_llama_server_that_hangs_and_systemd_restarts_it(fleet: Fleet) -> None:
    before, were, resumed = fleet.starts(), pids(fleet), resumes(fleet)

    def count(number: int) -> list[str]:
        # Conversations of their own, so that they are shared out.
        messages = [{"role": "user", "content": f"I am client {number:x}x. Count!"}]
        with chat(fleet, max_tokens=3500, stream=True, messages=messages) as response:
            return "".join(map(text_of, events(response))).split()

    with ThreadPoolExecutor(8) as threads:
        streams = [threads.submit(count, number) for number in range(8)]
        rig, number = wait_for(lambda: fleet.signal_working("STOP"), "a backend works")
        unit = f"heartcode-llama@{number}.service"
        assert [stream.result() for stream in streams] == [count_to(3500)] * 8
    assert resumes(fleet)[rig] > resumed[rig]
    wait_for(lambda: fleet.started_again(before), "systemd has been asked", timeout_s=90)
    wait_for(lambda: fleet.state(rig, unit) == "active", "it has generated a token")
    assert fleet.started_again(before) == {(rig, unit)}
    assert pids(fleet)[rig, number] != were[rig, number]
    assert signs(fleet, rig) == ""
    wait_for(
        lambda: '"backends_up":2' in fleet.ssh(rig, "curl -s http://127.0.0.1:8080/health"),
        "a probe has brought a token",
    )


@pytest.mark.usefixtures("disturbs")
def test_a_sign_restarts_its_backend_and_nothing_else(fleet: Fleet) -> None:
    rig, unit = "rig1", "heartcode-llama@1.service"
    before = fleet.starts()
    as_proxy = "setpriv --reuid=heartcode --regid=heartcode --clear-groups"
    fleet.ssh(
        rig,
        f"{as_proxy} mkdir -p {HUNG}/7 && cd {HUNG}"
        f" && {as_proxy} touch heartcode.service ssh.service 7/x '0;reboot' && {as_proxy} mkdir 1",
    )
    try:
        wait_for(lambda: fleet.started_again(before), "it is restarted")
        wait_for(lambda: fleet.state(rig, unit) == "active", "it has generated a token")
        assert fleet.started_again(before) == {(rig, unit)}
        assert signs(fleet, rig).split() == ["0;reboot", "7", "heartcode.service", "ssh.service"]
    finally:
        fleet.ssh(rig, f"rm -rf {HUNG}")


@pytest.mark.usefixtures("disturbs")
def test_what_hangs_is_killed_and_not_asked_to_end_first(fleet: Fleet) -> None:
    """It could not, and would only be waited for."""
    rig, number, unit = "rig1", 1, "heartcode-llama@1.service"
    before, since = fleet.starts(), fleet.cursor(rig)
    fleet.ssh(rig, f"mkdir -p {HUNG} && chown heartcode: {HUNG}")
    with striking.held(fleet, rig, number):
        fleet.ssh(rig, f"touch {HUNG}/{number}")
        wait_for(lambda: fleet.started_again(before), "it is restarted")
    wait_for(lambda: fleet.state(rig, unit) == "active", "it has generated a token")
    assert fleet.started_again(before) == {(rig, unit)}
    told = fleet.journal(rig, f"--unit={unit}", since)
    assert "Main process exited, code=killed, status=9/KILL" in told
    assert "timed out" not in told


@pytest.mark.usefixtures("disturbs")
def test_a_backend_that_does_not_run_is_not_started_by_a_sign(fleet: Fleet) -> None:
    rig, unit = "rig2", "heartcode-llama@1.service"
    fleet.ssh(rig, f"systemctl stop {unit} && mkdir -p {HUNG} && chown heartcode: {HUNG}")
    try:
        fleet.ssh(rig, f"systemctl start heartcode-revive@1.path && touch {HUNG}/1")
        wait_for(lambda: signs(fleet, rig) == "", "the sign is taken away")
        wait_for(
            lambda: fleet.state(rig, "heartcode-revive@1.service") == "inactive", "all is done"
        )
        assert fleet.state(rig, unit) == "inactive"
    finally:
        fleet.ssh(rig, f"systemctl start {unit}")
