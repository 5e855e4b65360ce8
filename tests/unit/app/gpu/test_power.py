"""Persistence mode and power limits, set by the real pynvml in the simulated NVML."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.nvml.cards import Rig, p104, p106
from tests.nvml.simulated import environment

APP = Path(__file__).parents[4] / "app"
MODELS = {"P106-100": 90, "P104-100": 130}


class Host:
    """A host with three cards and the program."""

    def __init__(self, directory: Path) -> None:
        self.rig = Rig([p106(), p106(), p104()]).save(directory / "gpus.json")
        self.uuids = [card["uuid"] for card in self.rig.cards]
        self._config = directory / "gpu-tune.json"
        self._environment = environment(directory / "gpus.json") | {"PYTHONPATH": str(APP)}

    def tune(self, *limits: float | str | None, **changes: Any) -> subprocess.CompletedProcess[str]:
        """Run the program with a limit for each card, or None."""
        cards = {
            uuid: {} if limit is None else {"power_limit_w": limit}
            for uuid, limit in zip(self.uuids, limits or (None,) * 3, strict=True)
        }
        config = {
            "persistence": True,
            "timeout_s": 30,
            "model_power_limits_w": MODELS,
            "cards": cards,
            **changes,
        }
        self._config.write_text(json.dumps(config))
        return self.run()

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "heartcode.gpu.power", self._config],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def shown(self, *fields: str) -> list[str]:
        """What nvidia-smi says of each card."""
        script = Path(__file__).parents[3] / "nvml/nvidia_smi.py"
        done = subprocess.run(
            [sys.executable, script, f"--query-gpu={','.join(fields)}", "--format=csv,noheader"],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.splitlines()

    def broken(self, text: str) -> subprocess.CompletedProcess[str]:
        self._config.write_text(text)
        return self.run()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_cards_get_their_own_limit_or_their_model_s_once(host: Host) -> None:
    done = host.tune(100, None, "stock")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{host.uuids[0]}: persistence mode: off -> on",
        f"{host.uuids[0]}: power limit: 120 W -> 100 W",
        f"{host.uuids[1]}: persistence mode: off -> on",
        f"{host.uuids[1]}: power limit: 120 W -> 90 W",
        f"{host.uuids[2]}: persistence mode: off -> on",
    ]
    assert host.shown("power.limit", "persistence_mode") == [
        "100.00 W, Enabled",
        "90.00 W, Enabled",
        "180.00 W, Enabled",
    ]
    again = host.tune(100, None, "stock")
    assert again.stdout.splitlines() == [f"{uuid}: nothing to change" for uuid in host.uuids]


def test_a_limit_that_a_card_does_not_take_is_clamped_and_said(host: Host) -> None:
    done = host.tune(20, 500, 90)
    assert done.returncode == 0
    assert "20 W is outside of what this card takes, 60 W to 140 W; 60 W it is" in done.stdout
    assert "500 W is outside of what this card takes, 60 W to 140 W; 140 W it is" in done.stdout
    assert host.shown("power.limit") == ["60.00 W", "140.00 W", "90.00 W"]


def test_a_model_without_a_limit_keeps_what_it_has(host: Host) -> None:
    done = host.tune(model_power_limits_w={"nvidia p104 100": 150}, persistence=False)
    assert done.stdout.splitlines()[:2] == [f"{uuid}: nothing to change" for uuid in host.uuids[:2]]
    assert host.shown("power.limit") == ["120.00 W", "120.00 W", "150.00 W"]


def test_what_a_card_does_not_support_ends_only_that(host: Host) -> None:
    host.rig.refuse(0, "power_limit_w")
    host.rig.refuse(1, "persistence_mode")
    host.rig.refuse(2, "power_limit_min_w")
    done = host.tune()
    assert done.returncode == 0
    assert f"{host.uuids[0]}: power limit: Not Supported; left as it is" in done.stdout
    assert f"{host.uuids[1]}: persistence mode: Not Supported; left as it is" in done.stdout
    assert host.shown("persistence_mode")[0] == "Enabled"
    assert host.shown("power.limit")[1] == "90.00 W"


def test_cards_that_are_lost_or_hang_do_not_hold_up_the_others(host: Host) -> None:
    host.rig.lose(0)
    host.rig.hang(1, "power_limit_w")
    began = time.monotonic()
    done = host.tune(timeout_s=5)
    assert time.monotonic() - began < 30
    assert done.returncode == 0
    assert f"{host.uuids[0]}: GPU is lost; this card is left as it is" in done.stdout
    assert f"{host.uuids[1]}: persistence mode: off -> on" in done.stdout
    assert f"{host.uuids[1]}: the driver has not answered for 5 s" in done.stdout
    assert f"{host.uuids[2]}: power limit: 180 W -> 130 W" in done.stdout


def test_a_host_without_a_driver_fails(host: Host) -> None:
    host.rig.fail()
    done = host.tune()
    assert done.returncode == 1
    assert done.stdout.count("NVML cannot be used: Driver Not Loaded") == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"persistence": 1}, "persistence must be true or false, not 1"),
        ({"timeout_s": 0}, "timeout_s must be seconds up to 600, not 0"),
        ({"timeout_s": "soon"}, "must be an object"),
        ({"model_power_limits_w": {"P1": "90"}}, "limit of P1 must be watts up to 1000 or stock"),
        ({"cards": {"GPU-a": {"power_limit_w": 1001}}}, "of GPU-a must be watts up to 1000"),
        ({"cards": {"GPU-a": 9}}, "must be an object"),
        ({"cards": []}, "must be an object"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_done(
    host: Host, changes: dict[str, Any], message: str
) -> None:
    done = host.tune(**changes)
    assert done.returncode == 78
    assert message in done.stderr
    assert host.shown("power.limit") == ["120.00 W", "120.00 W", "180.00 W"]


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("{}", "has no")])
def test_a_file_that_is_not_whole_is_refused(host: Host, text: str, message: str) -> None:
    done = host.broken(text)
    assert done.returncode == 78
    assert message in done.stderr
