"""The cards of the rigs: what the driver says of them, and what happens when one goes.

The cards are simulated, and the backends compute on the CPU.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from heartcode_models.demo.counting import write_model

from tests.counting import chat, count_to
from tests.fleet.harness import RIG, ROOT, Fleet, site_with, wait_for

# How a service of ours is locked in, as far as it matters to the driver's library.
SANDBOX = (
    "-p DynamicUser=yes -p ProtectSystem=strict -p PrivateTmp=yes -p PrivateUsers=yes"
    " -p DevicePolicy=closed -p MemoryDenyWriteExecute=yes -p SystemCallFilter=@system-service"
)


def uuids(fleet: Fleet, rig: str, command: str = "nvidia-smi") -> list[str]:
    said = fleet.ssh(rig, f"{command} --query-gpu=uuid --format=csv,noheader", check=False)
    return [line for line in said.splitlines() if line.startswith("GPU-")]


def uuids_of_inventory(rig: str) -> list[str]:
    variables = yaml.safe_load((ROOT / f"inventory/virtual/host_vars/{rig}.yml").read_text())
    return [card.split("=")[1] for card in variables["virtual_cards"]]


def test_a_rig_has_the_cards_of_its_inventory(fleet: Fleet) -> None:
    for rig in fleet.rigs:
        assert uuids(fleet, rig) == uuids_of_inventory(rig)


def test_a_service_sees_the_cards_unless_the_devices_are_hidden_from_it(fleet: Fleet) -> None:
    run = f"systemd-run --quiet --wait --pipe --collect {SANDBOX}"
    assert uuids(fleet, "rig1", f"{run} nvidia-smi") == uuids(fleet, "rig1")
    assert uuids(fleet, "rig1", f"{run} -p PrivateDevices=yes nvidia-smi") == []


def test_a_card_is_lost_and_comes_back(fleet: Fleet) -> None:
    whole = uuids(fleet, "rig2")
    fleet.ssh("rig2", "simulated-cards lose 1")
    try:
        assert uuids(fleet, "rig2") == whole[:1]
    finally:
        # Its power limit is gone, and nobody has missed the card.
        fleet.ssh("rig2", "simulated-cards restore 1 && systemctl restart heartcode-gpu-tune")
    assert uuids(fleet, "rig2") == whole


def quarantined(fleet: Fleet, rig: str, number: int) -> float | None:
    """What Prometheus knows of a backend, None as long as it knows nothing."""
    query = f'backend_quarantined{{rig="{rig}",backend="127.0.0.1:{8081 + number}"}}'
    found = fleet.metrics(query)
    return float(found[0]["value"][1]) if found else None


def limits(fleet: Fleet, rig: str) -> list[tuple[str, str]]:
    """Each card's power limit, and the one that it has of its own, in watts."""
    query = "--query-gpu=power.limit,power.default_limit --format=csv,noheader,nounits"
    return [
        (now, own)
        for line in fleet.ssh(rig, f"nvidia-smi {query}").splitlines()
        for now, own in [line.split(", ")]
    ]


@pytest.fixture(params=["often", pytest.param("as it is", marks=pytest.mark.long)])
def timer(fleet: Fleet, request: pytest.FixtureRequest) -> Iterator[str]:
    """How often rig2's second card is looked for: each second, or as the unit has it."""
    unit, rig = "heartcode-card@1.timer", "rig2"
    if request.param == "as it is":
        yield unit
        return
    drop_in = f"/run/systemd/system/{unit}.d/often.conf"
    # An empty value takes away what the unit has of all kinds.
    again = "OnActiveSec=\\nOnActiveSec=1\\nOnUnitInactiveSec=1"
    fleet.ssh(
        rig,
        f"mkdir -p $(dirname {drop_in}) && printf '[Timer]\\n{again}\\nAccuracySec=100ms\\n'"
        f" > {drop_in} && systemctl daemon-reload && systemctl restart {unit}",
    )
    yield unit
    fleet.ssh(
        rig,
        f"rm -r $(dirname {drop_in}) && systemctl daemon-reload && systemctl restart {unit}",
    )


@pytest.mark.usefixtures("disturbs")
def test_a_card_is_gone_and_comes_back(fleet: Fleet, timer: str) -> None:
    """Its backend stops trying, the others serve on, the metric tells, and nobody has to help."""
    rig, unit = "rig2", "heartcode-llama@1.service"
    before, limited = fleet.starts(), limits(fleet, rig)
    assert fleet.state(rig, timer) == "active"
    fleet.ssh(rig, "simulated-cards lose 1")
    try:
        wait_for(lambda: fleet.state(rig, unit) == "failed", "the unit gives up", timeout_s=120)
        status = fleet.ssh(rig, f"systemctl show --value --property=ExecMainStatus {unit}")
        assert status == "69"
        said = fleet.ssh(rig, "cat /run/heartcode/llama/1.quarantined")
        assert said.startswith(uuids_of_inventory(rig)[1])
        wait_for(lambda: quarantined(fleet, rig, 1) == 1, "Prometheus knows")
        assert quarantined(fleet, rig, 0) == 0
        down = f'gpu_up{{rig="{rig}",gpu="1"}} == 0'
        wait_for(lambda: fleet.metrics(down), "the card does not count as up")
        alert = f'ALERTS{{alertname="HeartCodeCardGone",rig="{rig}"}}'
        wait_for(lambda: fleet.metrics(alert), "the alert is at least pending")
        for _ in range(6):
            answer = chat(fleet, max_tokens=5).json()
            assert answer["choices"][0]["message"]["content"].split() == count_to(5)
        assert fleet.ssh(rig, f"systemctl show --value --property=NRestarts {unit}") == "0"
        assert fleet.started_again(before) == {(rig, unit)}
    finally:
        fleet.ssh(rig, "simulated-cards restore 1")
    wait_for(lambda: fleet.state(rig, unit) == "active", "it comes back", timeout_s=120)
    assert fleet.ssh(rig, "ls /run/heartcode/llama/*.quarantined", check=False) == ""
    wait_for(lambda: quarantined(fleet, rig, 1) == 0, "Prometheus knows that, too")
    # It came back as it left the factory, and computes at the limit that was planned for.
    assert limits(fleet, rig) == limited
    now, own = limited[1]
    assert now != own
    assert fleet.started_again(before) == {(rig, unit)}


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_card_that_is_back_gets_its_power_limit_whoever_starts_its_backend(fleet: Fleet) -> None:
    """A person is quicker than the timer, which is the one that usually does."""
    rig, unit = "rig2", "heartcode-llama@1.service"
    limited = limits(fleet, rig)
    now, own = limited[1]
    assert now != own
    # It looks once a minute; stopped, so that this second is not that one.
    fleet.ssh(rig, "systemctl stop heartcode-card@1.timer && simulated-cards lose 1")
    try:
        fleet.ssh(rig, f"systemctl restart {unit}", check=False)
        assert fleet.ssh(rig, "ls /run/heartcode/llama/1.quarantined")
        fleet.ssh(rig, "simulated-cards restore 1")
        assert limits(fleet, rig)[1] == (own, own)
        fleet.ssh(rig, f"systemctl start {unit}")
        assert limits(fleet, rig) == limited
        # Which is not done at each start.
        asked = "systemctl show --value --property=InvocationID heartcode-gpu-tune"
        tuned = fleet.ssh(rig, asked)
        fleet.ssh(rig, f"systemctl restart {unit}")
        assert fleet.ssh(rig, asked) == tuned
    finally:
        fleet.ssh(
            rig,
            "simulated-cards restore 1; systemctl reset-failed heartcode-llama@1;"
            " systemctl start heartcode-llama@1.service heartcode-card@1.timer",
        )


@pytest.mark.long
@pytest.mark.usefixtures("disturbs")
def test_a_start_outlives_a_driver_that_hangs(fleet: Fleet) -> None:
    """That is no proof against the card, so the backend is tried."""
    rig, unit = "rig1", "heartcode-llama@1.service"
    fleet.ssh(rig, "simulated-cards hang 0")
    try:
        fleet.ssh(rig, f"systemctl restart --no-block {unit}")
        wait_for(lambda: fleet.state(rig, unit) == "activating", "it starts")
        wait_for(lambda: fleet.state(rig, unit) == "active", "it has started", timeout_s=120)
    finally:
        fleet.ssh(rig, "simulated-cards restore 0")


@pytest.mark.usefixtures("disturbs")
def test_a_backend_that_was_disabled_is_left_alone(fleet: Fleet) -> None:
    rig, unit = "rig1", "heartcode-llama@1.service"
    fleet.ssh(rig, f"systemctl disable {unit} && simulated-cards lose 1")
    try:
        fleet.ssh(rig, f"systemctl restart {unit}", check=False)
        assert fleet.state(rig, unit) == "failed"
        fleet.ssh(rig, "simulated-cards restore 1 && systemctl start heartcode-card@1.service")
        assert fleet.state(rig, unit) == "failed"
        fleet.ssh(rig, f"systemctl enable {unit} && systemctl start heartcode-card@1.service")
        wait_for(lambda: fleet.state(rig, unit) == "active", "it is started")
    finally:
        fleet.ssh(rig, f"simulated-cards restore 1; systemctl enable --now {unit}")


def deploy(fleet: Fleet, rig: str, gpus: list[dict[str, object]], **variables: object) -> str:
    """Give one rig other cards; return what Ansible says, on one line."""
    said = fleet.deploy(*RIG, limit=rig, llama_server_gpus=gpus, **variables)
    return " ".join(said.split())


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_replacing_and_removing_a_card_takes_one_run_and_leaves_the_neighbours(
    fleet: Fleet, tmp_path: Path
) -> None:
    rig, first, second = "rig1", "heartcode-llama@0.service", "heartcode-llama@1.service"
    old = uuids_of_inventory(rig)
    new = "GPU-10600000-0000-4000-8000-0000000000ff"
    before = fleet.starts()
    better = tmp_path / "better.gguf"
    write_model(better, numbers=5000)
    more = [{"file": "better.gguf", "src": str(better)}]
    try:
        # A card that is gone keeps nobody from deploying.
        fleet.ssh(rig, "simulated-cards lose 1")
        fleet.ssh(rig, f"systemctl restart {second}", check=False)
        said = deploy(fleet, rig, [{"uuid": uuid} for uuid in old])
        assert f"rig1 serves without card {old[1]}" in said
        assert fleet.started_again(before) == {(rig, second)}

        # It is replaced, by one that has a file of its own.
        fleet.ssh(rig, f"simulated-cards restore 1 && simulated-cards set 1 uuid={new}")
        own: dict[str, object] = {"uuid": new, "model_file": "better.gguf"}
        deploy(fleet, rig, [{"uuid": old[0]}, own], model_more=more)
        assert fleet.state(rig, second) == "active"
        exporter = (rig, "heartcode-exporter.service")  # shares its settings with the proxy
        assert fleet.started_again(before) == {(rig, second), exporter}
        listed = json.loads(fleet.ssh(rig, "curl -fsS http://127.0.0.1:8080/v1/models"))
        assert [model["id"] for model in listed["data"]] == ["counting", "better"]

        # The first is taken out, so the second's card gets its number.
        deploy(fleet, rig, [{"uuid": new}])
        assert fleet.state(rig, first) == "active"
        assert new in fleet.ssh(rig, "cat /etc/heartcode/llama/0.env")
        units = ("heartcode-llama@1.service", "heartcode-revive@1.path", "heartcode-card@1.timer")
        assert {fleet.state(rig, unit) for unit in units} == {"inactive"}
        assert fleet.ssh(rig, f"systemctl is-enabled {second}", check=False) == "disabled"
        assert (
            fleet.ssh(
                rig,
                "ls -d /etc/heartcode/llama/1* /run/heartcode/llama/1*"
                " /etc/systemd/system/heartcode-llama@1*",
                check=False,
            )
            == ""
        )
    finally:
        fleet.ssh(rig, f"simulated-cards set 1 uuid={old[1]}; simulated-cards restore 1")
        fleet.ssh(rig, "rm -f /var/lib/heartcode/models/better.gguf")
        deploy(fleet, rig, [{"uuid": uuid} for uuid in old])
        # As it left the factory, it has no power limit; these roles set none.
        fleet.ssh(rig, "systemctl restart heartcode-gpu-tune")
    assert fleet.state(rig, second) == "active"


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_card_that_is_found_takes_the_place_of_the_one_that_is_gone(fleet: Fleet) -> None:
    """The inventory says no word of rig2's cards: a number is what the rig remembers."""
    rig, second = "rig2", "heartcode-llama@1.service"
    old = uuids_of_inventory(rig)
    new = "GPU-10600000-0000-4000-8000-0000000000fe"
    settings = "cat /etc/heartcode/llama/1.env"
    whole = fleet.ssh(rig, settings)
    before = fleet.starts()
    try:
        fleet.ssh(rig, f"simulated-cards lose 1; systemctl restart {second}", check=False)
        said = " ".join(fleet.deploy(*RIG, limit=rig).split())
        assert f"rig2 serves without card {old[1]}" in said
        assert fleet.ssh(rig, settings) == whole, "planned for as it was"
        assert fleet.started_again(before) == {(rig, second)}

        fleet.ssh(rig, f"simulated-cards restore 1 && simulated-cards set 1 uuid={new}")
        said = " ".join(fleet.deploy(*RIG, limit=rig).split())
        assert f"{new} takes the place of {old[1]}" in said
        assert fleet.state(rig, second) == "active"
        assert new in fleet.ssh(rig, settings)
        exporter = (rig, "heartcode-exporter.service")  # shares its settings with the proxy
        assert fleet.started_again(before) == {(rig, second), exporter}
    finally:
        fleet.ssh(rig, f"simulated-cards set 1 uuid={old[1]}; simulated-cards restore 1")
        fleet.deploy(*RIG, limit=rig)
        # As it left the factory, it has no power limit; these roles set none.
        fleet.ssh(rig, "systemctl restart heartcode-gpu-tune")
    assert fleet.ssh(rig, settings) == whole


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_bare_rig_gets_its_driver_and_its_backends_in_one_run(fleet: Fleet) -> None:
    """Before there is a driver the bus alone tells of the cards; when it has come they have names.

    No virtual rig can install one: it comes where the role gpu_driver would bring it.
    """
    rig, units = "rig2", "heartcode-llama@0.service heartcode-llama@1.service"
    told = "cat /etc/heartcode/llama/*.env /etc/heartcode/backends.json"
    whole = fleet.ssh(rig, told)
    plays = site_with(*(role for role in RIG if role != "gpu_driver"))
    (prepare,) = (play for play in plays if play["name"] == "Prepare the rigs")
    arrives = {"ansible.builtin.command": "mv /root/nvidia-smi /usr/bin/"}
    prepare["tasks"].insert(0, {"name": "The driver comes", **arrives})
    fleet.ssh(
        rig,
        f"systemctl disable --quiet --now {units}"
        " && rm -r /etc/heartcode/llama /etc/heartcode/backends.json"
        " && mv /usr/bin/nvidia-smi /root/",
    )
    try:
        done = fleet.play(plays, limit=rig)
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        fleet.ssh(rig, "test -e /usr/bin/nvidia-smi || mv /root/nvidia-smi /usr/bin/")
        if fleet.ssh(rig, f"systemctl is-active {units}", check=False).split() != ["active"] * 2:
            fleet.deploy(*RIG, limit=rig)
    assert fleet.ssh(rig, told) == whole
