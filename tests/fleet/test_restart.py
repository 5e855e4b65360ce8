"""Reload and restart of a rig's proxy under systemd: streams run on and nobody is refused."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests

from tests.counting import chat, count_to, events, text_of
from tests.fleet.harness import RIG, Fleet, wait_for
from tests.hammer import Hammer

PROXY = "heartcode.service"
SOCKET = "heartcode.socket"
LAST = 3500


def shown(fleet: Fleet, unit: str, *names: str) -> list[str]:
    command = f"systemctl show --property={{}} --value {unit}"
    return [fleet.ssh("rig1", command.format(name)) for name in names]


def url(fleet: Fleet, port: int = 8080) -> str:
    return f"http://{fleet.addresses['rig1']}:{port}"


def status(fleet: Fleet, path: str) -> int:
    return requests.get(url(fleet) + path, timeout=60).status_code


@contextmanager
def running_stream(fleet: Fleet) -> Iterator[None]:
    """A stream of rig1 that pauses until the end of the `with` and must then be whole.

    Its llama-server stands still meanwhile; after 30 s another one would go on.
    """
    with ExitStack() as last:

        def stops_midway() -> tuple[list[Any], Iterator[Any]] | None:
            # On a busy machine one may be generated to its end before anybody stops it.
            last.close()
            response = last.enter_context(chat(url(fleet), max_tokens=LAST, stream=True))
            arriving = events(response)
            told = [next(arriving) for _ in range(10)]
            return (told, arriving) if fleet.signal_working("STOP", "rig1") else None

        told, arriving = wait_for(stops_midway, "a stream's llama-server stands still")
        try:
            yield
        finally:
            fleet.ssh("rig1", "systemctl kill --signal=CONT 'heartcode-llama@*.service'")
        told += arriving
    assert "".join(map(text_of, told)).split() == count_to(LAST)


@contextmanager
def nobody_refused(fleet: Fleet) -> Iterator[None]:
    with (
        Hammer(f"{url(fleet)}/livez", clients=2) as direct,
        Hammer(f"{fleet.url}/livez", clients=2) as gateway,
    ):
        direct.wait_for_answers()
        yield
        direct.wait_for_answers()
        gateway.wait_for_answers()


def wait_for_one_worker(fleet: Fleet) -> None:
    group = "systemctl show --property=ControlGroup --value heartcode.service"
    processes = f"cat /sys/fs/cgroup/$({group})/cgroup.procs"
    wait_for(
        lambda: (
            shown(fleet, PROXY, "StatusText") == ["Serving"]
            and len(fleet.ssh("rig1", processes).split()) == 2
        ),
        "the former workers have ended",
    )


@pytest.fixture
def began(fleet: Fleet) -> str:
    """Where rig1's journal was when the test began."""
    return fleet.cursor("rig1")


def assert_nothing_is_amiss(fleet: Fleet, since: str) -> None:
    assert shown(fleet, PROXY, "ActiveState", "SubState", "Result") == [
        "active",
        "running",
        "success",
    ]
    assert shown(fleet, SOCKET, "ActiveState", "SubState") == ["active", "running"]
    log = fleet.journal("rig1", "--unit=heartcode", since)
    assert "ing heartcode.service" in log
    assert "left-over" not in log
    assert "SIGKILL" not in log


def test_reloads_refuse_nobody_and_the_stream_goes_on(fleet: Fleet, began: str) -> None:
    before = shown(fleet, PROXY, "MainPID", "NRestarts", "ActiveEnterTimestampMonotonic")
    with nobody_refused(fleet), running_stream(fleet):
        fleet.ssh("rig1", "systemctl reload heartcode")
        fleet.ssh("rig1", "systemctl reload heartcode")
        assert status(fleet, "/health") == 200
    after = shown(fleet, PROXY, "MainPID", "NRestarts", "ActiveEnterTimestampMonotonic")
    assert after == before
    wait_for_one_worker(fleet)
    assert_nothing_is_amiss(fleet, began)


def test_a_restart_refuses_nobody_and_the_stream_has_its_time(fleet: Fleet, began: str) -> None:
    before = shown(fleet, SOCKET, "ActiveEnterTimestampMonotonic")
    (master,) = shown(fleet, PROXY, "MainPID")
    with nobody_refused(fleet), running_stream(fleet):
        fleet.ssh("rig1", "systemctl reload heartcode")
        fleet.ssh("rig1", "systemctl restart --no-block heartcode")
        wait_for(
            lambda: shown(fleet, PROXY, "ActiveState") == ["deactivating"], "the restart has begun"
        )
    wait_for(lambda: shown(fleet, PROXY, "ActiveState") == ["active"], "it is active again")
    assert shown(fleet, PROXY, "MainPID") != [master]
    assert shown(fleet, SOCKET, "ActiveEnterTimestampMonotonic") == before
    assert_nothing_is_amiss(fleet, began)


@pytest.mark.usefixtures("disturbs")
@pytest.mark.parametrize("how", ["reload", "restart"])
def test_a_rig_that_drains_still_does_afterwards(fleet: Fleet, how: str) -> None:
    fleet.ssh("rig1", "touch /run/heartcode/draining")
    try:
        fleet.ssh("rig1", f"systemctl {how} heartcode")
        assert status(fleet, "/livez") == 200
        assert status(fleet, "/health") == 503
        assert chat(url(fleet), max_tokens=1).status_code == 503
        assert chat(fleet, max_tokens=1).status_code == 200
    finally:
        fleet.ssh("rig1", "rm /run/heartcode/draining")
    assert status(fleet, "/health") == 200


def test_a_reload_takes_the_version_that_current_names(fleet: Fleet, began: str) -> None:
    (master,) = shown(fleet, PROXY, "MainPID")
    now = fleet.ssh("rig1", "readlink /opt/heartcode/app/current")
    fleet.ssh("rig1", f"cd /opt/heartcode/app && cp -a {now} other && ln -sfn other current")
    try:
        fleet.ssh("rig1", "systemctl reload heartcode")
        assert fleet.ssh("rig1", f"readlink /proc/{master}/cwd") == "/opt/heartcode/app/other"
        assert status(fleet, "/health") == 200
        # Code that cannot start is found out before anything is done.
        fleet.ssh("rig1", "echo broken! >>/opt/heartcode/app/other/heartcode/server/wsgi.py")
        assert "failed" in fleet.ssh("rig1", "systemctl reload heartcode || echo failed")
        assert "SyntaxError" in fleet.journal("rig1", "--unit=heartcode", began)
        assert status(fleet, "/health") == 200
    finally:
        fleet.ssh("rig1", f"ln -sfn {now} /opt/heartcode/app/current")
        fleet.ssh("rig1", "systemctl reload heartcode")
        wait_for_one_worker(fleet)
        fleet.ssh("rig1", "rm -r /opt/heartcode/app/other")
    assert fleet.ssh("rig1", f"readlink /proc/{master}/cwd").endswith(now)
    assert_nothing_is_amiss(fleet, began)


@pytest.mark.usefixtures("disturbs")
def test_wrong_settings_fail_a_reload_and_close_the_port_after_a_restart(
    fleet: Fleet, began: str
) -> None:
    (master,) = shown(fleet, PROXY, "MainPID")
    fleet.ssh("rig1", "echo HEARTCODE_MAX_TOKENS=many >>/etc/heartcode/heartcode.env")
    try:
        assert "failed" in fleet.ssh("rig1", "systemctl reload heartcode || echo failed")
        log = fleet.journal("rig1", "--unit=heartcode", began)
        assert "HEARTCODE_MAX_TOKENS=many is not a whole number" in log
        assert shown(fleet, PROXY, "MainPID", "ActiveState") == [master, "active"]
        assert status(fleet, "/health") == 200

        fleet.ssh("rig1", "systemctl restart heartcode", check=False)
        wait_for(lambda: shown(fleet, PROXY, "ActiveState") == ["failed"], "it has failed")
        # A rig that took connections and never answered would be worse than none.
        wait_for(lambda: shown(fleet, SOCKET, "ActiveState") == ["inactive"], "the port is closed")
        with pytest.raises(requests.ConnectionError):
            status(fleet, "/livez")
        assert chat(fleet, max_tokens=1).status_code == 200
    finally:
        fleet.ssh("rig1", "sed -i '/=many$/d' /etc/heartcode/heartcode.env")
        fleet.ssh("rig1", "systemctl start heartcode")
    assert status(fleet, "/health") == 200
    assert_nothing_is_amiss(fleet, began)


@pytest.mark.usefixtures("disturbs")
def test_a_proxy_that_is_killed_is_started_again(fleet: Fleet) -> None:
    """What a reload comes to when the new master dies before it has a worker."""
    (killed,) = shown(fleet, PROXY, "MainPID")
    fleet.ssh("rig1", "systemctl kill --kill-whom=main --signal=KILL heartcode")
    assert chat(fleet, max_tokens=1).status_code == 200
    wait_for(
        lambda: (
            shown(fleet, PROXY, "StatusText") == ["Serving"]
            and shown(fleet, PROXY, "MainPID") not in ([killed], ["0"])
        ),
        "another one serves",
    )
    assert status(fleet, "/livez") == 200
    assert shown(fleet, SOCKET, "ActiveState") == ["active"]
    wait_for_one_worker(fleet)


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_the_playbook_reloads_for_a_setting_and_moves_to_another_port(
    fleet: Fleet, began: str
) -> None:
    def play(**variables: object) -> None:
        fleet.deploy("firewall", *RIG, limit="rig1", **variables)

    before = shown(fleet, PROXY, "MainPID", "NRestarts", "ActiveEnterTimestampMonotonic")
    try:
        with nobody_refused(fleet):
            play(app_settings={"HEARTCODE_MAX_TOKENS": 7})
        after = shown(fleet, PROXY, "MainPID", "NRestarts", "ActiveEnterTimestampMonotonic")
        assert after == before
        assert chat(url(fleet), max_tokens=8).status_code == 400
        play(app_port=8088)
        assert requests.get(f"{url(fleet, 8088)}/health", timeout=60).status_code == 200
        with pytest.raises(requests.ConnectionError):
            status(fleet, "/livez")
    finally:
        play()
    assert chat(url(fleet), max_tokens=8).status_code == 200
    assert_nothing_is_amiss(fleet, began)
