"""The driver: what is refused before anything is changed, and what apt would install.

The rigs are containers with simulated cards, which count as a rig's own working driver. The
packages are Debian's real ones, up to the point where apt would install them.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from tests.fleet.harness import Fleet, refusals

pytestmark = pytest.mark.long

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
def test_a_rig_with_the_wrong_driver_is_refused(
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


def run_part(fleet: Fleet, *arguments: str) -> str:
    """Run a part of the role on rig2, as gpu_driver.yml does, and return what Ansible says."""
    done = fleet.playbook(*arguments, playbook="tests/fleet/gpu_driver.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def recap(said: str) -> str:
    return said.splitlines()[-1]


@contextmanager
def empty_package(fleet: Fleet, name: str) -> Iterator[None]:
    """On rig2 an empty package of version 0 stands for another one."""
    control = f"Package: {name}\\nVersion: 0\\nArchitecture: amd64\\nMaintainer: a <a@b>\\n"
    fleet.ssh(
        "rig2",
        "mkdir -p /root/empty/DEBIAN && cd /root &&"
        f" printf '{control}Description: empty\\n' > empty/DEBIAN/control &&"
        " dpkg-deb --build empty && dpkg -i empty.deb",
    )
    try:
        yield
    finally:
        fleet.ssh("rig2", f"dpkg --purge {name}; rm -r /root/empty /root/empty.deb")


def test_debian_s_driver_that_is_installed_and_held_is_accepted(fleet: Fleet) -> None:
    """No container could load a module."""
    with empty_package(fleet, "nvidia-kernel-dkms"):
        fleet.ssh("rig2", "apt-mark hold nvidia-kernel-dkms")
        said = run_part(fleet, "-e", "part=preflight", "-e", "gpu_driver_mode=managed")
    assert "changed=0" in recap(said)


@pytest.fixture
def non_free(fleet: Fleet) -> Iterator[Fleet]:
    """A fleet whose rig2 has the sections of the driver in apt, by the role."""
    # A dry run on a host whose apt has never heard of the driver.
    run_part(fleet, "--check", "-e", "part=sources")
    run_part(fleet, "--check", "-e", "part=driver")
    assert "changed=1" in recap(run_part(fleet, "-e", "part=sources"))
    yield fleet
    fleet.ssh("rig2", f"rm {SOURCES} && apt-get update -q")


def test_apt_would_install_the_proprietary_driver_from_the_host_s_own_mirror(
    non_free: Fleet,
) -> None:
    own = non_free.ssh("rig2", "awk '$1 == \"deb\" {print $2}' /etc/apt/sources.list | sort -u")
    ours = non_free.ssh("rig2", f"awk '$1 == \"URIs:\" {{print $2}}' {SOURCES} | sort -u")
    assert ours == own
    assert "changed=0" in recap(run_part(non_free, "-e", "part=sources"))

    installed = planned(non_free)
    release = non_free.ssh("rig2", ". /etc/os-release; echo $VERSION_ID")
    branch = {"12": "(535.", "13": "(550."}[release]
    assert installed["nvidia-kernel-dkms"].startswith(branch)
    assert [name for name in installed if "open-kernel" in name or "xserver" in name] == []
    assert kernels_of(installed, "headers") == kernels_of(installed, "image") != set()


def test_an_image_that_is_there_comes_to_the_version_of_its_headers(non_free: Fleet) -> None:
    """Else the headers would be those of a newer kernel than the rig has."""
    with empty_package(non_free, "linux-image-amd64"):
        installed = planned(non_free)
    assert kernels_of(installed, "headers") == kernels_of(installed, "image") != set()


def planned(fleet: Fleet) -> dict[str, str]:
    """What apt, in a dry run of the role, would install on rig2: versions by name."""
    said = run_part(fleet, "--check", "-v", "-e", "part=driver")
    # A package that is there already has its version in between.
    return dict(re.findall(r"Inst (\S+) (?:\[\S+\] )?(\(\S+) ", said))


def kernels_of(installed: Iterable[str], kind: str) -> set[str]:
    """The kernels of which a plan has headers, or images."""
    found = (re.fullmatch(rf"linux-{kind}-([0-9].*-amd64)", name) for name in installed)
    return {match[1] for match in found if match}
