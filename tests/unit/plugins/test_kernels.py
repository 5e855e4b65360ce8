"""A rig's kernels and NVIDIA's module for them, in the words of dkms, linux-version and dpkg."""

from collections.abc import Mapping
from typing import Any

import pytest

from plugins.filter.kernels import nvidia_kernels, package_versions, packages_undone

OLD, NEW = "6.1.0-49-amd64", "6.1.0-56-amd64"
LOG = "/var/lib/dkms/nvidia-current/535.309.01/build/make.log"
# make.log of dkms 3.0.10 and 3.2.2, of what `grep --recursive` of ask.yml takes.
BOOKWORM = f"{LOG}:DKMS make.log for nvidia-current-535.309.01 for kernel {NEW} (x86_64)"
TRIXIE = f"{LOG}:DKMS (dkms-3.2.2) make.log for nvidia-current/535.309.01 for kernel {NEW} (x86_64)"
COMPILER = (
    f"{LOG}:nvidia-drm-drv.c:65:12: error: 'DRM_UNLOCKED' undeclared here (not in a function)"
)
MAKE = f"{LOG}:make[2]: *** [/usr/src/linux-headers-{NEW}/Makefile:2034: modules] Error 2"


def answer(*lines: str) -> dict[str, Any]:
    return {"rc": 0, "stdout": "\n".join(lines), "stdout_lines": list(lines), "stderr": ""}


def kernels(**answers: Mapping[str, Any]) -> dict[str, Any]:
    # Of a rig without any of these programs.
    nothing = {name: answer() for name in ("grub", "kernels", "modules", "headers", "logs", "lost")}
    return nvidia_kernels(nothing | {"kernel": answer(OLD)} | answers)


def test_the_newest_kernel_boots_next() -> None:
    assert kernels(kernels=answer(OLD, NEW))["next"] == NEW
    assert kernels(kernels=answer(OLD, NEW))["running"] == OLD


def test_a_rig_whose_kernel_is_none_of_debian_s_boots_what_it_runs() -> None:
    assert kernels()["next"] == OLD


@pytest.mark.parametrize(
    ("lines", "boots"),
    [
        (("GRUB_DEFAULT=0",), NEW),
        (('GRUB_DEFAULT="0"',), NEW),
        (("GRUB_DEFAULT=saved",), OLD),
        # The shell that reads it takes the last one.
        (("GRUB_DEFAULT=0", f"GRUB_DEFAULT='Advanced options>Debian, with Linux {OLD}'"), OLD),
    ],
)
def test_the_owner_may_have_told_grub_which_kernel_to_boot(lines: tuple[str], boots: str) -> None:
    assert kernels(kernels=answer(OLD, NEW), grub=answer(*lines))["next"] == boots


def test_a_kernel_has_the_module_by_any_of_its_names() -> None:
    tree = "/lib/modules"
    said = answer(
        f"{tree}/{OLD}/updates/dkms/nvidia-current.ko.xz",
        f"{tree}/{OLD}/updates/dkms/nvidia-current-uvm.ko.xz",
        f"{tree}/{NEW}/kernel/drivers/video/nvidia.ko",
        f"{tree}/6.1.0-40-amd64/updates/dkms/nvidia-tesla-535.ko",
        # The kernel's own, and a part of the driver without the driver.
        f"{tree}/6.1.0-41-amd64/kernel/drivers/video/fbdev/nvidia/nvidiafb.ko",
        f"{tree}/6.1.0-42-amd64/updates/dkms/nvidia-current-uvm.ko",
    )
    assert kernels(modules=said)["with_module"] == ["6.1.0-40-amd64", OLD, NEW]


def test_headers_are_those_that_dkms_would_take() -> None:
    said = answer(f"/lib/modules/{NEW}/build/include", f"/lib/modules/{OLD}/source/build/include")
    assert kernels(headers=said)["with_headers"] == [NEW]


@pytest.mark.parametrize("header", [BOOKWORM, TRIXIE])
def test_the_log_says_for_which_kernel_dkms_has_failed_and_why(header: str) -> None:
    (found,) = kernels(logs=answer(header, COMPILER, MAKE))["failed"].items()
    assert found[0] == NEW
    assert found[1].startswith(f"{LOG}: nvidia-drm-drv.c:65:12: error: 'DRM_UNLOCKED' undeclared")
    # Where the compiler has not complained, make says where it was.
    assert kernels(logs=answer(header, MAKE))["failed"] == {NEW: MAKE.replace(":make", ": make", 1)}


@pytest.mark.parametrize(
    "lines",
    [
        (BOOKWORM,),  # it was killed, or is at work
        (MAKE,),  # of no known kernel
        # Of a compilation that ended well; the log lies elsewhere by then.
        tuple(line.replace("/build/", f"/{NEW}/x86_64/log/") for line in (TRIXIE, MAKE)),
        tuple(line.replace("nvidia-current", "zfs") for line in (TRIXIE, MAKE)),
    ],
)
def test_not_every_log_is_of_a_failure(lines: tuple[str, ...]) -> None:
    assert kernels(logs=answer(*lines))["failed"] == {}


def test_dkms_may_have_lost_the_source() -> None:
    lost = "/var/lib/dkms/nvidia-current/535.309.01/source"
    assert kernels(lost=answer(lost))["is_broken"] is True
    assert kernels(lost=answer(lost.replace("nvidia-current", "zfs")))["is_broken"] is False
    assert kernels()["is_broken"] is False


DPKG = answer(
    "not-installed nvidia-driver ",
    "config-files nvidia-smi 535.261.03-1",
    "installed linux-image-amd64 6.1.176-1",
    f"half-configured linux-image-{NEW} 6.1.192-2",
    "unpacked nvidia-kernel-dkms 535.309.01-0+deb12u1",
)


def test_packages_are_installed_or_half_so_or_gone() -> None:
    assert package_versions(DPKG) == {"linux-image-amd64": "6.1.176-1"}
    assert packages_undone(DPKG) == [f"linux-image-{NEW}", "nvidia-kernel-dkms"]
    assert package_versions(answer()) == {}
