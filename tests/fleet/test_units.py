"""The units on the rigs: what restarting one does to the others, and how they are locked in."""

import json

import pytest

from tests.counting import chat, count_to
from tests.fleet.harness import Fleet, wait_for


def main_pid(fleet: Fleet, rig: str, unit: str) -> str:
    return fleet.ssh(rig, f"systemctl show --value --property=MainPID {unit}")


def test_restarting_the_proxy_leaves_the_backends_warm(fleet: Fleet) -> None:
    before = [main_pid(fleet, "rig1", f"heartcode-llama@{n}") for n in (0, 1)]
    fleet.ssh("rig1", "systemctl restart heartcode")
    assert [main_pid(fleet, "rig1", f"heartcode-llama@{n}") for n in (0, 1)] == before
    assert "0" not in before


@pytest.mark.usefixtures("disturbs")
def test_starting_a_backend_returns_when_it_answers(fleet: Fleet) -> None:
    answer = fleet.ssh(
        "rig1",
        "systemctl restart heartcode-llama@1 && curl -fsS http://127.0.0.1:8082/completion"
        ' -H \'Content-Type: application/json\' -d \'{"prompt": " 7", "n_predict": 1}\'',
    )
    assert json.loads(answer)["content"].split() == ["8"]


@pytest.mark.usefixtures("disturbs")
def test_a_killed_backend_is_started_again_and_the_rig_serves_on(fleet: Fleet) -> None:
    before = main_pid(fleet, "rig1", "heartcode-llama@0")
    fleet.ssh("rig1", "systemctl kill --signal=KILL heartcode-llama@0")
    assert chat(fleet, max_tokens=5).json()["choices"][0]["message"]["content"].split() == count_to(
        5
    )
    wait_for(
        lambda: (
            main_pid(fleet, "rig1", "heartcode-llama@0") != before
            and fleet.state("rig1", "heartcode-llama@0") == "active"
        ),
        "systemd has started the backend again",
    )


def test_the_proxy_knows_what_the_prompt_caches_hold(fleet: Fleet) -> None:
    """A token of the demo model takes 136 bytes in q8_0."""
    mib = [
        int(fleet.ssh("rig1", f"sed -n s/HEARTCODE_CACHE_RAM_MIB=//p /etc/heartcode/llama/{n}.env"))
        for n in (0, 1)
    ]
    told = "sed -n s/HEARTCODE_HOST_CACHE_TOKENS=//p /etc/heartcode/heartcode.env"
    assert int(fleet.ssh("rig1", told)) == min(mib) * 2**20 // 136


@pytest.mark.usefixtures("disturbs")
def test_a_setting_that_cannot_work_is_named_and_not_retried(fleet: Fleet) -> None:
    since = fleet.cursor("rig1")
    fleet.ssh("rig1", "sed -i 's/^N_CTX=.*/N_CTX=many/' /etc/heartcode/llama/1.env")
    try:
        fleet.ssh("rig1", "systemctl restart heartcode-llama@1", check=False)
        assert fleet.ssh("rig1", "systemctl is-failed heartcode-llama@1", check=False) == "failed"
        log = fleet.journal("rig1", "--unit=heartcode-llama@1", since)
        assert "N_CTX must be a whole number, but is 'many'" in log
    finally:
        fleet.ssh("rig1", "sed -i 's/^N_CTX=.*/N_CTX=4096/' /etc/heartcode/llama/1.env")
        fleet.ssh("rig1", "systemctl restart heartcode-llama@1")


def test_backends_listen_on_the_loopback_interface_alone(fleet: Fleet) -> None:
    sockets = fleet.ssh(
        "rig1", "ss --no-header --listening --tcp --numeric '( sport = :8081 or sport = :8082 )'"
    )
    listening = {line.split()[3] for line in sockets.splitlines()}
    assert listening == {"127.0.0.1:8081", "127.0.0.1:8082"}


@pytest.mark.parametrize(
    "unit",
    [
        "heartcode.service",
        "heartcode-exporter.service",
        "heartcode-llama@0.service",
        "heartcode-revive@0.service",
        "heartcode-card@0.service",
        "heartcode-gpu-tune.service",
    ],
)
def test_a_unit_is_locked_in(fleet: Fleet, unit: str) -> None:
    """systemd's own daemons reach 1.2 to 1.5; an ordinary service has above 9."""
    assert_is_locked_in(fleet, "rig1", unit)


def test_the_gateway_s_relay_is_locked_in(fleet: Fleet) -> None:
    assert_is_locked_in(fleet, "gateway", "heartcode-relay.service")


def assert_is_locked_in(fleet: Fleet, host: str, unit: str) -> None:
    report = fleet.ssh(host, f"systemd-analyze security --no-pager {unit} | tail -n 1")
    exposure = float(report.split(":")[1].split()[0])
    assert exposure <= 1.5, report


def test_no_unit_has_failed(fleet: Fleet) -> None:
    assert {
        host: fleet.ssh(host, "systemctl --failed --plain --no-legend") for host in fleet.addresses
    } == dict.fromkeys(fleet.addresses, "")


def turns(fleet: Fleet, rig: str, since: str) -> list[tuple[float, float]]:
    """When the backends of a rig loaded, as (begin, end) on the host's clock."""
    told = fleet.ssh(
        rig,
        "journalctl --sync &&"
        f" journalctl --unit='heartcode-llama@*' '{since}' --output=json"
        " --output-fields=MESSAGE,_SYSTEMD_UNIT,__MONOTONIC_TIMESTAMP"
        " | grep 'heartcode-llama-ready: '",
    )
    begins: dict[str, float] = {}
    found = []
    for line in map(json.loads, told.splitlines()):
        unit, at = line["_SYSTEMD_UNIT"], int(line["__MONOTONIC_TIMESTAMP"]) / 1e6
        if "its turn to load" in line["MESSAGE"]:
            begins[unit] = at
        elif "loaded in" in line["MESSAGE"]:
            found.append((begins.pop(unit), at))
    assert not begins
    return sorted(found)


@pytest.mark.usefixtures("disturbs")
def test_backends_load_one_after_the_other(fleet: Fleet) -> None:
    units = ["heartcode-llama@0.service", "heartcode-llama@1.service"]
    fleet.ssh("rig1", f"systemctl stop {' '.join(units)}")
    since = fleet.cursor("rig1")
    # Another one loads, and takes its time.
    lock = "systemd-run --quiet --collect --unit=slow-load -p Type=exec flock"
    fleet.ssh("rig1", f"{lock} /run/heartcode/llama/loading.0 sleep infinity")
    try:
        wait_for(
            lambda: fleet.ssh("rig1", "lslocks --output=PATH | grep loading", check=False),
            "the other one has the lock",
        )
        fleet.ssh("rig1", f"systemctl start --no-block {' '.join(units)}")

        def wait_their_turn() -> bool:
            return all(
                fleet.ssh("rig1", f"cat /run/heartcode/llama/{n}.waiting", check=False)
                == main_pid(fleet, "rig1", unit)
                for n, unit in enumerate(units)
            )

        wait_for(wait_their_turn, "both wait for their turn")
        for unit in units:
            assert fleet.state("rig1", unit) == "activating"
            program = f"cat /proc/{main_pid(fleet, 'rig1', unit)}/comm"
            assert fleet.ssh("rig1", program) != "llama-server"
    finally:
        fleet.ssh("rig1", "systemctl stop slow-load")
        fleet.ssh("rig1", f"systemctl start {' '.join(units)}")
    first, second = turns(fleet, "rig1", since)
    assert first[1] <= second[0]


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_backend_that_dies_again_and_again_is_left_alone(fleet: Fleet) -> None:
    rig, unit = "rig1", "heartcode-llama@1.service"
    before = fleet.starts()
    # Without the pauses, which would take minutes here.
    drop_in = f"/run/systemd/system/{unit}.d/quick.conf"
    fleet.ssh(
        rig,
        f"mkdir -p $(dirname {drop_in}) && printf '[Service]\\nRestartSec=100ms\\n'"
        f" > {drop_in} && if systemctl show {unit} | grep -q ^RestartSteps;"
        f" then echo RestartSteps=0 >> {drop_in}; fi && systemctl daemon-reload",
    )
    killed = set()

    def died_for_good() -> bool:
        if fleet.state(rig, unit) == "active":
            # systemd may still call one active that is dead already.
            killed.add(main_pid(fleet, rig, unit))
            fleet.ssh(rig, f"systemctl kill --signal=KILL {unit}", check=False)
        return fleet.state(rig, unit) == "failed"

    try:
        wait_for(died_for_good, "systemd gives up", timeout_s=120)
        assert len(killed - {"0"}) <= 7  # the one that ran, and six starts
        result = fleet.ssh(rig, f"systemctl show --value --property=Result {unit}")
        assert result in ("start-limit-hit", "signal")
        assert fleet.started_again(before) == {(rig, unit)}
        answer = chat(fleet, max_tokens=5).json()
        assert answer["choices"][0]["message"]["content"].split() == count_to(5)
    finally:
        fleet.ssh(rig, f"rm -r $(dirname {drop_in}) && systemctl daemon-reload")
        fleet.ssh(rig, f"systemctl reset-failed {unit}; systemctl start {unit}")


def test_pauses_between_starts_grow_where_systemd_knows_how(fleet: Fleet) -> None:
    shown = fleet.ssh("rig1", "systemctl show heartcode-llama@0 --property=RestartSteps")
    version = int(fleet.ssh("rig1", "systemctl --version").split()[1])
    assert shown == ("RestartSteps=5" if version >= 254 else "")
    unknown = "journalctl --boot --grep 'Unknown (key|lvalue)' --output=cat"
    assert fleet.ssh("rig1", f"{unknown} | grep heartcode", check=False) == ""


def test_a_backend_has_a_limit_of_memory_and_goes_before_the_proxy(fleet: Fleet) -> None:
    def scores(unit: str) -> int:
        pid = main_pid(fleet, "rig1", unit)
        return int(fleet.ssh("rig1", f"cat /proc/{pid}/oom_score_adj"))

    shown = fleet.ssh("rig1", "systemctl show --value --property=MemoryMax heartcode-llama@0")
    ram = int(fleet.ssh("rig1", "grep MemTotal /proc/meminfo").split()[1]) * 1024
    assert ram / 4 < int(shown) < ram
    assert scores("heartcode-llama@0") > scores("heartcode") >= 0
