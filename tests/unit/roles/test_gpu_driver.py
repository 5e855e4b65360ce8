"""What the role gpu_driver says of a rig's kernels, in one ansible-playbook for all rigs.

A rig is what its programs answer (tasks/ask.yml); the lines are those of Debian 12's and 13's own
dkms, dpkg, linux-version and mokutil.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.roles.playing import play_on_all

ROOT = Path(__file__).parents[3]
CARD = "GPU-10600000-0000-4000-8000-000000000001"
OLD, NEW = "6.1.0-49-amd64", "6.1.0-56-amd64"
REAL_TIME = "6.1.0-56-rt-amd64"
BACKPORT = "6.12.95+deb12-amd64"
LOG = "/var/lib/dkms/nvidia-current/535.309.01/build/make.log"
LOCKED = "none [integrity] confidentiality"
KEY = "/var/lib/dkms/mok.pub"

Lines = tuple[str, ...]
#: Answers of a rig with a fresh Debian and its cards on the bus; whatever is not here is not there.
FRESH: dict[str, Lines] = {
    "kernel": (OLD,),
    "kernels": (OLD,),
    "packages": ("installed linux-image-amd64 6.1.170-1", f"installed linux-image-{OLD} 6.1.170-1"),
    "bus": ("0000:01:00.0 0x1c07 1 2.5 GT/s PCIe",),
    "room": ("Avail", "50000"),
    "lockdown": ("[none] integrity confidentiality",),
    "signed_only": ("N",),
    "sources": (" 500 http://deb.debian.org/debian bookworm/main amd64 Packages",),
}
#: And of one that has served for a while, where Debian's updates have brought another kernel.
SERVING: dict[str, Lines] = FRESH | {
    "cards": (f"{CARD}, 6.1, 535.309.01, NVIDIA P106-100",),
    "kernels": (OLD, NEW),
    "modules": tuple(
        f"/lib/modules/{kernel}/updates/dkms/nvidia-current.ko" for kernel in (OLD, NEW)
    ),
    "headers": tuple(f"/lib/modules/{kernel}/build/include" for kernel in (OLD, NEW)),
    "packages": (
        "installed nvidia-kernel-dkms 535.309.01-0+deb12u1",
        "installed linux-image-amd64 6.1.192-2",
        "installed linux-headers-amd64 6.1.192-2",
    ),
}
#: Its new kernel has no module.
BARE = SERVING | {"modules": SERVING["modules"][:1]}
FAILED = (
    f"{LOG}:DKMS make.log for nvidia-current-535.309.01 for kernel {NEW} (x86_64)",
    f"{LOG}:nvidia-drm-drv.c:65:12: error: 'DRM_UNLOCKED' undeclared here (not in a function)",
    f"{LOG}:make[2]: *** [/usr/src/linux-headers-{NEW}/Makefile:2034: modules] Error 2",
)
Case = tuple[str, Mapping[str, Lines], Lines]
MANAGED, PRESENT = "managed", "present"

#: The mode, the answers, and what is said; nothing where the rig passes.
CASES: Mapping[str, Case] = {
    "a fresh rig": (MANAGED, FRESH, ()),
    "a serving rig": (MANAGED, SERVING, ()),
    "a serving rig with a driver of its own": (PRESENT, SERVING, ()),
    "a kernel whose module DKMS can still compile": (MANAGED, BARE, ()),
    "a newer kernel on a fresh rig": (MANAGED, FRESH | {"kernels": (OLD, NEW)}, ()),
    # Killed, by a reboot or for want of memory.
    "a compilation that was cut off": (MANAGED, BARE | {"logs": FAILED[:1]}, ()),
    "a failure for a kernel that does not boot": (
        MANAGED,
        SERVING | {"logs": tuple(line.replace(NEW, OLD) for line in FAILED)},
        (),
    ),
    "a kernel that its owner has told GRUB to boot": (
        PRESENT,
        BARE | {"grub": ("GRUB_DEFAULT=saved",)},
        (),
    ),
    "a driver that DKMS has not brought": (PRESENT, SERVING | {"modules": ()}, ()),
    "a kernel that signs its modules, with DKMS's key": (
        MANAGED,
        FRESH | {"lockdown": (LOCKED,), "key": (f"{KEY} is already enrolled",)},
        (),
    ),
    "a backported kernel with its headers": (
        MANAGED,
        SERVING
        | {
            "packages": (
                *SERVING["packages"][:1],
                "installed linux-image-amd64 6.12.95-1~bpo12+1",
                "installed linux-headers-amd64 6.12.95-1~bpo12+1",
            )
        },
        (),
    ),
    "a backported kernel of known origin": (
        MANAGED,
        FRESH
        | {
            "packages": ("installed linux-image-amd64 6.12.95-1~bpo12+1",),
            "sources": (" release o=Debian Backports,a=oldstable-backports,n=bookworm-backports",),
        },
        (),
    ),
    "a backported kernel of unknown origin": (
        MANAGED,
        FRESH | {"packages": ("installed linux-image-amd64 6.12.95-1~bpo12+1",)},
        ("has its kernel from bookworm-backports", "Add bookworm-backports to /etc/apt again"),
    ),
    "a kernel that DKMS has failed for": (
        MANAGED,
        BARE | {"logs": FAILED},
        (
            f"could not compile NVIDIA's module for {NEW}, which boots next",
            f"({LOG}: nvidia-drm-drv.c:65:12: error: 'DRM_UNLOCKED' undeclared",
            f"dkms autoinstall --kernelver {NEW}",
            f"apt-get purge linux-image-{NEW}`)",
        ),
    ),
    "the only kernel that DKMS has failed for": (
        MANAGED,
        FRESH | {"logs": tuple(line.replace(NEW, OLD) for line in FAILED)},
        (f"apt-get purge linux-image-{OLD}`; boot another one before)",),
    ),
    "a source that DKMS has lost": (
        MANAGED,
        BARE | {"lost": ("/var/lib/dkms/nvidia-current/535.309.01/source",)},
        ("apt-get install --reinstall nvidia-kernel-dkms",),
    ),
    "DKMS turned off": (
        MANAGED,
        BARE | {"dkms_is_off": ("/etc/dkms/no-autoinstall",)},
        ("/etc/dkms/no-autoinstall on", "Remove it"),
    ),
    "a package that is half there": (
        MANAGED,
        BARE | {"packages": (*BARE["packages"], f"half-configured linux-image-{NEW} 6.1.192-2")},
        (f"has not finished with linux-image-{NEW}.", "dpkg --configure -a"),
    ),
    "a real-time kernel": (
        MANAGED,
        FRESH | {"kernel": (REAL_TIME,), "kernels": (REAL_TIME,)},
        (f"runs {REAL_TIME} and boots {REAL_TIME} next, a real-time kernel",),
    ),
    "a real-time kernel that comes": (
        MANAGED,
        SERVING | {"kernels": (OLD, NEW, REAL_TIME)},
        (f"boots {REAL_TIME} next, a real-time kernel", "purge 'linux-image*-rt-amd64'"),
    ),
    "a kernel of somebody else's that comes": (
        MANAGED,
        SERVING | {"kernels": (OLD, NEW, "6.17.1-liquorix-amd64-x")},
        ("boots 6.17.1-liquorix-amd64-x next, which is none of Debian's", "Install its headers"),
    ),
    "Secure Boot": (
        MANAGED,
        FRESH | {"lockdown": (LOCKED,), "key": (f"{KEY} is not enrolled",)},
        (f"({KEY} is not enrolled)", "Turn Secure Boot off", f"mokutil --import {KEY}"),
    ),
    "a key that nobody has confirmed": (
        MANAGED,
        FRESH | {"lockdown": (LOCKED,), "key": (f"{KEY} is already in the enrollment request",)},
        ("is already in the enrollment request)", 'choose "Enroll MOK"'),
    ),
    "a kernel that wants signatures without Secure Boot": (
        MANAGED,
        FRESH | {"signed_only": ("Y",)},
        ("No such file or directory: 'mokutil'",),
    ),
    "a driver of one's own without the new kernel": (
        PRESENT,
        BARE,
        (
            f"boots {NEW} next, and NVIDIA's module is there for {OLD} alone",
            f"apt-get install linux-headers-{NEW} && dkms autoinstall --kernelver {NEW}",
        ),
    ),
    "too few cards on the bus": (MANAGED, FRESH | {"bus": ()}, ("0 NVIDIA cards on its PCI bus",)),
    "a full disk": (MANAGED, FRESH | {"room": ("Avail", " 100")}, ("has 100 MiB free in /usr",)),
    "NVIDIA's installer": (
        MANAGED,
        FRESH | {"installer": ("/usr/bin/nvidia-uninstall",)},
        ("a driver that is not Debian's proprietary one (NVIDIA installer)",),
    ),
    "another package of the driver": (
        MANAGED,
        FRESH | {"packages": ("installed nvidia-open-kernel-dkms 535.309.01-1",)},
        ("a driver that is not Debian's proprietary one (nvidia-open-kernel-dkms)",),
    ),
}


def answers(said: Mapping[str, Lines]) -> dict[str, dict[str, Any]]:
    """As host_answers has them; programs that say nothing here are not installed."""
    (ask,) = yaml.safe_load((ROOT / "roles/gpu_driver/tasks/ask.yml").read_text())
    found = {}
    for name, command in ask["host_answers"]["ask"].items():
        lines = list(said.get(name, ()))
        found[name] = {
            "rc": 0 if lines else 127,
            "stdout": "\n".join(lines),
            "stdout_lines": lines,
            "stderr": "" if lines else f"[Errno 2] No such file or directory: '{command[0]}'",
        }
    assert said.keys() <= found.keys()
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """By case, what is said of the rule that is broken first."""
    hosts = {
        f"rig{number}": {
            "gpu_driver_mode": mode,
            "rig_backends": [{"uuid": CARD}],
            # The role rig has looked at the bus.
            "rig_facts": {"bus": list(said["bus"])},
            "__gpu_driver_host": {
                "answers": answers({name: lines for name, lines in said.items() if name != "bus"})
            },
            "facts": {
                "kernel": said["kernel"][0],
                "distribution_major_version": "12",
                "distribution_release": "bookworm",
                "virtualization_tech_guest": [],
            },
        }
        for number, (mode, said, _) in enumerate(CASES.values())
    }
    play = {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {
                "name": "Know the rig",
                "ansible.builtin.set_fact": {
                    name: f"{{{{ facts.{name} }}}}" for name in hosts["rig0"]["facts"]
                }
                | {"cacheable": True},
            },
            {
                "name": "Check it",
                "ansible.builtin.include_role": {"name": "gpu_driver", "tasks_from": "checks"},
            },
        ],
    }
    tasks = play_on_all(tmp_path_factory.mktemp("rigs"), {"all": {"hosts": hosts}}, play)
    results = [result for task in tasks for result in task["hosts"].items()]
    # All have come to the rules.
    assert {host for host, result in results if "rule" in result or "holds" in str(result)} == {
        *hosts
    }, tasks
    failed = {host: result["msg"] for host, result in results if result.get("failed")}
    return {what: failed.get(host, "") for what, host in zip(CASES, hosts, strict=True)}


@pytest.mark.parametrize("what", CASES)
def test_a_rig_that_would_lose_its_cards_is_refused_and_no_other(
    told: Mapping[str, str], what: str
) -> None:
    text = " ".join(told[what].split())
    *_, expected = CASES[what]
    assert [message for message in expected if message not in text] == [], text
    assert bool(expected) == bool(text), text
