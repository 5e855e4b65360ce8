#!/usr/bin/env python3
"""nvidia-modprobe for simulated cards: it makes the device files that it is told to make.

As the real one (its source, version 610.43): without -c it loads the module alone; 255 is
/dev/nvidiactl; with -u a number stands for /dev/nvidia-uvm and the one behind it for
/dev/nvidia-uvm-tools. Two things are not so: the files are plain ones, as a container may make no
others (who could not make a device is refused all the same), and this program is not setuid, so a
call that the driver's libraries would make for a user without a sandbox fails here as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

DEV = Path("/dev")
CAP_MKNOD = 27  # capabilities(7), linux/capability.h


def may_make_devices() -> bool:
    """Return whether mknod(2) would let this process make a device."""
    status = Path("/proc/self/status").read_text()
    (effective,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return bool(int(effective, 16) >> CAP_MKNOD & 1)


def make(name: str) -> None:
    """Make a device file, for everybody as the driver's default is."""
    file = DEV / name
    file.touch()
    file.chmod(0o666)


def main() -> int:
    """Do what the options say."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-c", "--create-nvidia-device-file", type=int, action="append", default=[])
    parser.add_argument("-u", "--unified-memory", action="store_true")
    options = parser.parse_args()
    if options.create_nvidia_device_file and not may_make_devices():
        return 1
    for minor in options.create_nvidia_device_file:
        if options.unified_memory:
            make("nvidia-uvm")
            make("nvidia-uvm-tools")
        else:
            make("nvidiactl" if minor == 255 else f"nvidia{minor}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
