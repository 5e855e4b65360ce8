"""playbooks/tune.yml on a rig: real measurements on the CPU, and what is made of them."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.counting import chat, count_to
from tests.fleet.harness import RIG, Fleet, wait_for
from tests.fleet.test_cards import uuids_of_inventory

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("disturbs")]

# Small enough for a test: the demo model is measured in a second.
TINY = {
    "tuning_grid": {
        "n_batch": [128],
        "n_ubatch": [16, 128],
        "kv_type": ["q8_0", "f16"],
        "flash_attention": [True, False],
    },
    "tuning_prompt_tokens": 128,
    "tuning_answer_tokens": 16,
    "tuning_depth": 64,
    "tuning_repetitions": 1,
}
OF_ENV = {
    "n_batch": "N_BATCH",
    "n_ubatch": "HEARTCODE_UBATCH",
    "kv_type": "HEARTCODE_KV_TYPE",
    "flash_attention": "HEARTCODE_FLASH_ATTENTION",
}
DEFAULTS = {"n_batch": "512", "n_ubatch": "512", "kv_type": "q8_0", "flash_attention": "on"}


def env(fleet: Fleet, name: str) -> dict[str, str]:
    lines = fleet.ssh("rig1", f"cat /etc/heartcode/{name}.env").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match("[A-Z_]+=", line))


def settings(fleet: Fleet, number: int) -> dict[str, str]:
    found = env(fleet, f"llama/{number}")
    return {name: found[variable] for name, variable in OF_ENV.items()}


def as_env(tuned: dict[str, Any]) -> dict[str, str]:
    attention = "on" if tuned["flash_attention"] else "off"
    return {name: str(value) for name, value in tuned.items()} | {"flash_attention": attention}


def deploy(fleet: Fleet) -> str:
    return fleet.deploy(*RIG, limit="rig1")


def starts(fleet: Fleet) -> list[int]:
    show = "systemctl show --value --property=ActiveEnterTimestampMonotonic heartcode-llama@"
    return [int(fleet.ssh("rig1", f"{show}{number}")) for number in (0, 1)]


@pytest.fixture
def file(fleet: Fleet) -> Iterator[Path]:
    """Where the tuning of rig1 is kept; without it the rig is as it was before."""
    path = fleet.directory / "tuned/rig1.yml"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)
    deploy(fleet)
    assert [settings(fleet, number) for number in (0, 1)] == [DEFAULTS] * 2


def test_cards_are_measured_and_the_next_deployment_uses_it(fleet: Fleet, file: Path) -> None:
    before = starts(fleet)
    with ThreadPoolExecutor(1) as pool:
        playing = pool.submit(
            fleet.playbook, "--limit", "rig1", "-e", json.dumps(TINY), playbook="playbooks/tune.yml"
        )
        # The rig serves all the time, with the card that is not being measured.
        while not playing.done():
            answer = chat(f"http://{fleet.addresses['rig1']}:8080", max_tokens=3)
            assert answer.status_code == 200, answer.text
            assert answer.json()["choices"][0]["message"]["content"].split() == count_to(3)
        done = playing.result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(now > then for now, then in zip(starts(fleet), before, strict=True))
    assert len(re.findall(r"P106-100 +before +512/512 +q8_0 +on", done.stdout)) == 2

    cards = list(yaml.safe_load(file.read_text())["cards"].values())
    assert len(cards) == 2
    assert all(card["speeds"]["prompt"] > card["speeds"]["decode"] > 0 for card in cards)

    deploy(fleet)
    assert [settings(fleet, n) for n in (0, 1)] == [as_env(card["settings"]) for card in cards]
    proxy = env(fleet, "heartcode")
    for kind in ("prompt", "decode"):
        told = [float(speed) for speed in proxy[f"HEARTCODE_{kind.upper()}_SPEEDS"].split(",")]
        assert told == [card["speeds"][kind] for card in cards]
    assert re.search(r"rig1 .*changed=0 ", deploy(fleet))

    # What was measured holds only where a card is set as it was then.
    slow = {"n_batch": 128, "n_ubatch": 16, "kv_type": "f16", "flash_attention": False}
    tuned = yaml.safe_load(file.read_text())
    first, second = tuned["cards"].values()
    first["settings"] = slow
    second["measured_with"]["n_ctx"] += 1
    file.write_text(yaml.safe_dump(tuned))
    said = " ".join(deploy(fleet).split())
    assert "was measured with other settings and is left aside" in said
    assert [settings(fleet, number) for number in (0, 1)] == [as_env(slow), DEFAULTS]
    assert env(fleet, "heartcode")["HEARTCODE_PROMPT_SPEEDS"].endswith(",0")


def test_a_backend_serves_again_also_when_measuring_fails(fleet: Fleet) -> None:
    fleet.ssh("rig1", "mkdir -p /run/heartcode-bench; rm -f /run/heartcode-bench/1.json")
    before = starts(fleet)
    said = fleet.ssh("rig1", "systemctl start heartcode-bench@1 || echo it failed")
    try:
        assert said == "it failed"
        wait_for(lambda: starts(fleet)[1] > before[1], "the backend was started again")
        assert starts(fleet)[0] == before[0]
        assert fleet.ssh("rig1", "systemctl is-active heartcode-llama@1") == "active"
    finally:
        fleet.ssh("rig1", "systemctl reset-failed heartcode-bench@1", check=False)


def test_the_gateway_weighs_rigs_by_their_measured_speeds(fleet: Fleet, tmp_path: Path) -> None:
    """Two rigs of 4 slots each, of which one is three times as fast."""

    def weights() -> set[tuple[str, str]]:
        site = fleet.ssh("gateway", "cat /etc/nginx/sites-available/heartcode.conf")
        return set(re.findall(r"server ([0-9.]+):8080 weight=(\d+)", site))

    files = {rig: fleet.directory / f"tuned/{rig}.yml" for rig in fleet.rigs}
    speeds = dict(zip(fleet.rigs, (30, 10), strict=True))
    even = {(fleet.addresses[rig], "16") for rig in fleet.rigs}
    assert weights() == even
    try:
        for rig, file in files.items():
            file.parent.mkdir(exist_ok=True)
            cards = {uuid: {"speeds": {"decode": speeds[rig]}} for uuid in uuids_of_inventory(rig)}
            file.write_text(json.dumps({"cards": cards}))
        fleet.set_up_gateway(tmp_path)
        fast, slow = (fleet.addresses[rig] for rig in fleet.rigs)
        assert weights() == {(fast, "24"), (slow, "8")}
    finally:
        for file in files.values():
            file.unlink(missing_ok=True)
        fleet.set_up_gateway(tmp_path)
    assert weights() == even
