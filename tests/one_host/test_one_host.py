"""One host that is gateway and rig at once, as inventory/example.yml has it: `make test-long`."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from heartcode_models.demo.counting import write_model

from tests.counting import chat, count_to, events, text_of
from tests.fleet.harness import ROOT, Fleet, wait_for
from tests.health_check import check

HOSTS = """
all:
  children:
    gateways: {hosts: {rig1: }}
    rigs: {hosts: {rig1: }}
    virtual: {children: {gateways: , rigs: }}
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A bare host with cards: a fleet of its own, beside the one that may stand."""
    directory = tmp_path_factory.mktemp("one-host")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HEARTCODE_FLEET_DIR", str(directory))
        tool = ROOT / "scripts/fleet.py"
        subprocess.run([tool, "create", "rig1"], check=True)
        try:
            known = json.loads((directory / "fleet.json").read_text())
            write_model(Path(known["cache"]) / "counting.gguf")
            address = known["machines"]["rig1"]["address"]
            yield Fleet(directory, {"gateway": address, "rig1": address})
        finally:
            subprocess.run([tool, "destroy"], check=True)


@pytest.fixture(scope="module")
def inventory(host: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual fleet's inventory, with one host in both groups."""
    directory = tmp_path_factory.mktemp("inventory") / "virtual"
    shutil.copytree(ROOT / "inventory/virtual", directory)
    (directory / "hosts.yml").write_text(HOSTS)
    plugged = host.playbook(inventory=directory, playbook="tests/nvml/rigs.yml")
    assert plugged.returncode == 0, plugged.stdout + plugged.stderr
    return directory


@pytest.fixture(scope="module")
def deployed(host: Fleet, inventory: Path) -> Fleet:
    for arguments in (("--check", "--diff"), ()):
        done = host.playbook(*arguments, inventory=inventory)
        assert done.returncode == 0, done.stdout + done.stderr
    return host


def test_a_second_run_changes_nothing(deployed: Fleet, inventory: Path) -> None:
    done = deployed.playbook(inventory=inventory)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"changed=(\d+)", done.stdout) == ["0", "0"], "the host and localhost"


def test_it_serves_with_all_its_cards(deployed: Fleet) -> None:
    done = check(deployed.url, deployed.key)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all 2 cards of 1 rig serve" in done.stdout
    with chat(deployed, max_tokens=50, stream=True) as stream:
        assert "".join(map(text_of, events(stream))).split() == count_to(50)


def test_prometheus_asks_each_exporter_of_the_host(deployed: Fleet) -> None:
    def jobs() -> set[str]:
        asked = "curl -s 'http://127.0.0.1:9090/api/v1/query?query=up==1'"
        told = json.loads(deployed.ssh("rig1", asked))
        return {series["metric"]["job"] for series in told["data"]["result"]}

    expected = {"heartcode", "nginx", "node", "prometheus", "relay"}
    wait_for(lambda: jobs() == expected, "all are up")


def test_after_a_power_cut_it_serves_by_itself(deployed: Fleet) -> None:
    deployed.tool("stop", "rig1")
    deployed.tool("start", "rig1")
    wait_for(
        lambda: check(deployed.url, deployed.key).returncode == 0,
        lambda: check(deployed.url, deployed.key).stdout,
        timeout_s=120,
    )
