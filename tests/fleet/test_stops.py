"""llama-servers that are stopped on purpose, and others that are not what the inventory says."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.counting import chat, count_to, events, text_of
from tests.fleet.harness import RIG, Fleet, wait_for

LAST = 3500
PROXY = "http://127.0.0.1:8080"


def sign(fleet: Fleet, number: int) -> str:
    """Return what the unit of a backend of rig1 left when it was stopped last."""
    return fleet.ssh("rig1", f"cat /run/heartcode/llama/{number}.stopped", check=False)


def resumes(fleet: Fleet, reason: str) -> float:
    name = f'inference_resumes_total{{reason="{reason}"}}'
    told = fleet.ssh("rig1", "curl -fsS http://127.0.0.1:9091/metrics").splitlines()
    return sum(float(line.split()[-1]) for line in told if line.startswith(name))


def backends(fleet: Fleet) -> list[dict[str, object]]:
    """Return what the proxy of rig1 believes of its backends."""
    told = json.loads(fleet.ssh("rig1", f"curl -fsS {PROXY}/fleet"))
    found: list[dict[str, object]] = told["rigs"][0]["backends"]
    return found


def wait_until_up(fleet: Fleet) -> None:
    wait_for(
        lambda: [backend["state"] for backend in backends(fleet)] == ["up", "up"],
        "both backends are up",
    )


@pytest.mark.usefixtures("disturbs")
def test_a_restart_under_a_stream_is_no_death(fleet: Fleet) -> None:
    wait_until_up(fleet)
    stopped, broken = resumes(fleet, "stopped"), resumes(fleet, "broken")
    with ExitStack() as last:

        def stops_midway() -> tuple[list[str], Iterator[dict[str, Any]], int] | None:
            # On a busy machine one may be generated to its end before anybody stops it.
            last.close()
            url = f"http://{fleet.addresses['rig1']}:8080"
            response = last.enter_context(chat(url, max_tokens=LAST, stream=True))
            arriving = events(response)
            told = [text_of(next(arriving)) for _ in range(10)]
            found = fleet.signal_working("STOP", "rig1")
            return (told, arriving, found[1]) if found else None

        told, arriving, number = wait_for(stops_midway, "a stream's llama-server stands still")
        # systemd has it go on to end, which takes until its next word.
        fleet.ssh("rig1", f"systemctl restart heartcode-llama@{number}")
        told += map(text_of, arriving)
    assert "".join(told).split() == count_to(LAST)
    assert (resumes(fleet, "stopped"), resumes(fleet, "broken")) == (stopped + 1, broken)


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_only_who_is_stopped_leaves_a_sign(fleet: Fleet) -> None:
    fleet.ssh("rig1", "systemctl restart heartcode-llama@1")
    stopped = sign(fleet, 1)
    assert float(stopped) > 0
    unit = "heartcode-llama@1.service"
    for signal in ("KILL", "SEGV", "TERM"):
        before = fleet.starts()
        fleet.ssh("rig1", f"kill -{signal} $(systemctl show --value -p MainPID {unit})")
        wait_for(lambda: ("rig1", unit) in fleet.started_again(before), "it is started again")  # noqa: B023
        wait_for(lambda: fleet.state("rig1", unit) == "active", "it serves")
        assert sign(fleet, 1) == stopped, signal
    fleet.ssh("rig1", f"systemctl stop {unit} && systemctl start {unit}")
    assert float(sign(fleet, 1)) > float(stopped)


@pytest.mark.long
@pytest.mark.usefixtures("disturbs")
def test_a_run_mends_what_an_interrupted_one_has_left(fleet: Fleet) -> None:
    """One llama-server runs with settings that are not those that it shall have."""
    settings = "/etc/heartcode/llama/0.env"
    fleet.ssh(
        "rig1",
        f"sed -i 's/^HEARTCODE_MODEL=.*/HEARTCODE_MODEL=other/' {settings}"
        " && systemctl restart heartcode-llama@0",
    )
    try:
        wait_for(lambda: backends(fleet)[0]["state"] == "other_model", "the proxy has found it out")
        assert str(backends(fleet)[0]["serves"]).startswith("other from ")
        url = f"http://{fleet.addresses['rig1']}:8080"
        for _ in range(4):
            assert chat(url, max_tokens=2).status_code == 200
        before = fleet.starts()
    finally:
        fleet.deploy(*RIG, limit="rig1")
    assert fleet.started_again(before) == {("rig1", "heartcode-llama@0.service")}
    wait_until_up(fleet)
    again = fleet.starts()
    fleet.deploy(*RIG, limit="rig1")
    assert fleet.started_again(again) == set()
