"""A model's way to the rigs: from the hub to the gateway once, and from there to everybody."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from heartcode_models.demo.counting import write_model

from tests.fleet.harness import Fleet
from tests.model_hub import ModelHub

REPOSITORY = "people/Counting-GGUF"
NAME = "Counting-far-Q4_K_M.gguf"
DIRECTORY = "/var/lib/heartcode/models"
MIRROR_PORT = 4001
MIRROR_LIST, KEPT_LIST = "/etc/heartcode/mirror.json", "/root/mirror-of-the-fleet.json"
CATALOGUE = f"""
[counting]
title = "Another model that counts"
repository = "{REPOSITORY}"
revision = "main"
file = "Counting-far-{{quantisation}}.gguf"
quantisations = ["Q4_K_M"]
licence = "mit"
context = 4096
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "far.gguf"
    write_model(path, numbers=5000)
    return path.read_bytes()


@pytest.fixture
def hub(fleet: Fleet, model: bytes) -> Iterator[ModelHub]:
    """A hub on this machine, at the address that the hosts of the fleet reach it under."""
    address = fleet.ssh("gateway", "ip -4 route show default").split()[2]
    fleet.ssh("gateway", f"cp -a {MIRROR_LIST} {KEPT_LIST}")
    with ModelHub({f"{REPOSITORY}/{NAME}": model}, address, address) as hub:
        yield hub
    fleet.ssh("gateway", f"mv {KEPT_LIST} {MIRROR_LIST}")
    for host in fleet.addresses:
        fleet.ssh(host, f"rm -f {DIRECTORY}/{NAME} {DIRECTORY}/{NAME}.*")


@pytest.fixture
def variables(hub: ModelHub, tmp_path: Path) -> dict[str, object]:
    (tmp_path / "catalogue.toml").write_text(CATALOGUE)
    return {
        "model_name": "counting",
        "model_quantisation": "Q4_K_M",
        "model_file": NAME,
        "model_src": "",
        "model_catalogue_file": str(tmp_path / "catalogue.toml"),
        "model_lock_file": str(tmp_path / "lock.json"),
        "model_hub_endpoint": hub.url,
    }


def have(
    fleet: Fleet, variables: dict[str, object], *arguments: str, limit: str = "all"
) -> subprocess.CompletedProcess[str]:
    return fleet.play_roles("model_mirror", "model", limit=limit, arguments=arguments, **variables)


def downloads(hub: ModelHub) -> list[str]:
    """The ranges that were asked for, but for pieces of the header: the planner reads it once."""
    ranges = [asked.range for asked in hub.to("cdn")]
    pieces = [asked for asked in ranges if re.fullmatch(r"bytes=\d+-\d+", asked)]
    assert len(pieces) == len(set(pieces))
    return [asked for asked in ranges if asked not in pieces]


def changes(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stdout + done.stderr
    return sum(int(number) for number in re.findall(r"changed=(\d+)", done.stdout))


def sums(fleet: Fleet, name: str = NAME) -> set[str]:
    return {fleet.ssh(host, f"sha256sum {DIRECTORY}/{name}").split()[0] for host in fleet.addresses}


@pytest.mark.ci
def test_a_model_crosses_the_line_once(
    fleet: Fleet, hub: ModelHub, model: bytes, variables: dict[str, object]
) -> None:
    done = have(fleet, variables)
    assert changes(done) > 0
    assert sums(fleet) == {hashlib.sha256(model).hexdigest()}
    assert downloads(hub) == [""], "the gateway has downloaded it, and the rigs have not"
    said = " ".join(done.stdout.split())
    assert "Licence: mit, see" in said
    (pin,) = json.loads(Path(str(variables["model_lock_file"])).read_text())["files"].values()
    assert pin["sha256"] == hashlib.sha256(model).hexdigest()
    assert "also keeps counting.gguf" in said, "the old one stays"

    before = len(hub.asked)
    assert changes(have(fleet, variables)) == 0
    assert len(hub.asked) == before, "what is pinned and there needs no hub"


@pytest.mark.long
def test_a_play_for_the_gateway_alone_knows_what_the_rigs_serve(fleet: Fleet) -> None:
    """As for a new API key, while nobody asks the rigs."""
    done = fleet.playbook(
        *("--limit", "gateways", "--check", "--diff"), playbook="playbooks/gateway.yml"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert changes(done) == 0


@pytest.mark.long
def test_a_mirror_with_a_damaged_file_does_no_harm(
    fleet: Fleet, hub: ModelHub, model: bytes, variables: dict[str, object]
) -> None:
    fleet.ssh("gateway", f"head -c {len(model)} /dev/zero > {DIRECTORY}/{NAME}")
    done = have(fleet, variables, limit="rigs")
    assert changes(done) > 0
    for rig in fleet.rigs:
        assert fleet.ssh(rig, f"sha256sum {DIRECTORY}/{NAME}").startswith(
            hashlib.sha256(model).hexdigest()
        )
    assert downloads(hub) == [""] * len(fleet.rigs)
    assert "sends no GGUF" in " ".join(done.stdout.split()), "and that is said"


@pytest.mark.long
def test_a_token_goes_to_the_hub_and_nowhere_else(
    fleet: Fleet, hub: ModelHub, variables: dict[str, object]
) -> None:
    hub.does.token = "hf_secret"  # noqa: S105
    done = have(fleet, variables | {"model_hub_token": "hf_secret"}, "-vvv")
    assert changes(done) > 0
    assert {asked.authorization for asked in hub.to("hub")} == {"Bearer hf_secret"}
    assert {asked.authorization for asked in hub.to("cdn")} == {""}
    for host in fleet.addresses:
        seen = fleet.ssh(host, "journalctl | grep -c hf_secret", check=False)
        assert seen == "0", f"{host} has logged it"


@pytest.mark.long
def test_a_refusal_of_the_hub_stops_the_play_with_its_reason(
    fleet: Fleet, hub: ModelHub, variables: dict[str, object]
) -> None:
    hub.does.token = "hf_secret"  # noqa: S105
    done = have(fleet, variables)
    assert done.returncode != 0
    assert "answers 401 Unauthorized: this model is only for people who are known" in " ".join(
        done.stdout.split()
    )
    assert fleet.ssh("gateway", f"ls {DIRECTORY}/{NAME}", check=False) == ""


def mirrored(fleet: Fleet, host: str, path: str, *options: str) -> str:
    """The status that a host gets from the mirror."""
    url = f"http://{fleet.addresses['gateway']}:{MIRROR_PORT}{path}"
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, url]
    if host:
        return fleet.ssh(host, " ".join(f"'{part}'" for part in command))
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_the_mirror_gives_rigs_whole_models_and_ranges(fleet: Fleet) -> None:
    path = "/models/counting.gguf"
    for rig in fleet.rigs:
        assert mirrored(fleet, rig, path) == "200"
        assert mirrored(fleet, rig, path, "-r", "1000-") == "206"
    (one,) = sums(fleet, "counting.gguf")
    assert len(one) == 64


@pytest.mark.parametrize(
    "path",
    ["/", "/models/", "/models/absent.gguf", "/models/../heartcode.env", "/models/.hidden.gguf"],
)
def test_the_mirror_gives_nothing_else(fleet: Fleet, path: str) -> None:
    assert mirrored(fleet, "rig1", path, "--path-as-is") in ("404", "400")


def test_the_mirror_is_for_the_fleet_alone(fleet: Fleet) -> None:
    path = "/models/counting.gguf"
    assert mirrored(fleet, "", path) == "000", "the firewall refuses the connection"
    fleet.ssh("gateway", "systemctl stop heartcode-firewall")
    try:
        assert mirrored(fleet, "", path) == "403"
    finally:
        fleet.ssh("gateway", "systemctl start heartcode-firewall")
