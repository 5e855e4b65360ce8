"""The driver: what is refused before anything is changed, and what apt would install.

The rigs are containers with simulated cards, which count as a rig's own working driver. The
packages are Debian's real ones, up to the point where apt would install them.
"""

import re
from collections.abc import Iterator

import pytest

from tests.fleet.harness import Fleet, refusals

pytestmark = pytest.mark.long

UUID = "GPU-10600000-0000-4000-8000-000000000003"
SOURCES = "/etc/apt/sources.list.d/heartcode-non-free.sources"
NO_DRIVER = "mv /usr/bin/nvidia-smi /root/"
DRIVER_AGAIN = "mv /root/nvidia-smi /usr/bin/"


def set_driver(version: str) -> str:
    change = f's/"driver_version": "[^"]*"/"driver_version": "{version}"/'
    return f"sed -i '{change}' /etc/simulated-gpus.json"


@pytest.mark.parametrize(
    ("before", "variables", "message", "after"),
    [
        pytest.param(
            "simulated-cards lose 1",
            {},
            f"rig2 lacks {UUID} of llama_server_gpus",
            "simulated-cards restore 1",
            id="a card is lost",
        ),
        pytest.param(
            set_driver("590.48.01"),
            {},
            "rig2 has driver 590.48.01, and 580 is the last branch that knows Pascal",
            set_driver("550.163.01"),
            id="a driver without Pascal",
        ),
        pytest.param(
            set_driver("470.256.02"),
            {},
            "The driver of rig2 (470.256.02) is too old for CUDA",
            set_driver("550.163.01"),
            id="a driver too old for CUDA",
        ),
        pytest.param(
            NO_DRIVER,
            {"gpu_driver_mode": "managed"},
            "is a container: its kernel, and so the driver, is that of the machine below",
            DRIVER_AGAIN,
            id="a container, which cannot load one",
        ),
        pytest.param(
            NO_DRIVER,
            {},
            "rig2 has no driver that works (nvidia-smi: it is not installed)",
            DRIVER_AGAIN,
            id="no driver",
        ),
    ],
)
def test_a_rig_with_the_wrong_driver_or_cards_is_refused(
    fleet: Fleet, before: str, variables: dict[str, object], message: str, after: str
) -> None:
    fleet.ssh("rig2", before)
    try:
        done = fleet.playbook(
            *("-e", "part=preflight", "-e", str(variables)), playbook="tests/fleet/gpu_driver.yml"
        )
    finally:
        fleet.ssh("rig2", after)
    assert message in refusals(done)


def test_a_card_that_has_never_served_has_to_be_there(fleet: Fleet) -> None:
    """Of one that has, the role llama_server tells this one: see test_cards.py."""
    fleet.ssh("rig2", "simulated-cards remove 1")
    try:
        done = fleet.playbook("-e", "part=preflight", playbook="tests/fleet/gpu_driver.yml")
    finally:
        plugged = fleet.playbook(playbook="tests/nvml/rigs.yml")
    assert f"rig2 lacks {UUID} of llama_server_gpus" in refusals(done)
    assert plugged.returncode == 0, plugged.stdout


def run_part(fleet: Fleet, *arguments: str) -> str:
    """Run a part of the role on rig2, as gpu_driver.yml does, and return the recap."""
    done = fleet.playbook(*arguments, playbook="tests/fleet/gpu_driver.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_debian_s_driver_that_is_installed_and_held_is_accepted(fleet: Fleet) -> None:
    """An empty package stands for the module, which no container could load."""
    control = (
        "Package: nvidia-kernel-dkms\\nVersion: 0\\nArchitecture: all\\nMaintainer: a <a@b>\\n"
    )
    fleet.ssh(
        "rig2",
        "mkdir -p /root/module/DEBIAN && cd /root &&"
        f" printf '{control}Description: empty\\n' > module/DEBIAN/control &&"
        " dpkg-deb --build module && dpkg -i module.deb && apt-mark hold nvidia-kernel-dkms",
    )
    try:
        recap = run_part(fleet, "-e", "part=preflight", "-e", "gpu_driver_mode=managed")
    finally:
        fleet.ssh("rig2", "dpkg --purge nvidia-kernel-dkms; rm -r /root/module /root/module.deb")
    assert "changed=0" in recap


@pytest.fixture
def non_free(fleet: Fleet) -> Iterator[Fleet]:
    """A fleet whose rig2 has the sections of the driver in apt, by the role."""
    # A dry run on a host whose apt has never heard of the driver.
    run_part(fleet, "--check", "-e", "part=sources")
    run_part(fleet, "--check", "-e", "part=driver")
    assert "changed=1" in run_part(fleet, "-e", "part=sources")
    yield fleet
    fleet.ssh("rig2", f"rm {SOURCES} && apt-get update -q")


def test_apt_would_install_the_proprietary_driver_from_the_host_s_own_mirror(
    non_free: Fleet,
) -> None:
    own = non_free.ssh("rig2", "awk '$1 == \"deb\" {print $2}' /etc/apt/sources.list | sort -u")
    ours = non_free.ssh("rig2", f"awk '$1 == \"URIs:\" {{print $2}}' {SOURCES} | sort -u")
    assert ours == own
    assert "changed=0" in run_part(non_free, "-e", "part=sources")

    # The dry run lets apt work out what the role's own list of packages means.
    run_part(non_free, "--check", "-e", "part=driver")
    packages = (
        "nvidia-kernel-dkms libcuda1 nvidia-smi libnvidia-ml1 linux-headers-amd64 linux-image-amd64"
    )
    plan = non_free.ssh("rig2", f"apt-get -s install --no-install-recommends {packages}")
    installed = dict(line.split()[1:3] for line in plan.splitlines() if line.startswith("Inst "))
    release = non_free.ssh("rig2", ". /etc/os-release; echo $VERSION_ID")
    branch = {"12": "(535.", "13": "(550."}[release]
    assert installed["nvidia-kernel-dkms"].startswith(branch)
    assert [name for name in installed if "open-kernel" in name or "xserver" in name] == []
    # The kernel that the module is compiled for can be booted.
    headers = {name for name in installed if re.fullmatch(r"linux-headers-[0-9].*-amd64", name)}
    assert headers
    assert {name.replace("headers", "image") for name in headers} <= installed.keys()
