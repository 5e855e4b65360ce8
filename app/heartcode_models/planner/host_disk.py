"""How much of a rig's disk conversations may take that are kept in files.

From the size of the file system, and not from what is free at the moment: the plan is the same in
each run. What is free the proxy watches itself (`heartcode.warm.store`).
"""

from heartcode_models.units import MIB

GIB = 1024 * MIB
#: Part of the file system.
SHARE = 0.1
#: Two hundred conversations of 8000 tokens of an 8B in q8_0; more are too old when they come back.
LARGEST = 100 * GIB
#: Less is a few conversations, on what is rather a USB stick than a disk.
SMALLEST = 4 * GIB


def room_for_conversations(disk: int) -> int:
    """Return the MiB for the files of all backends of a rig, 0 where the disk is too small.

    Args:
        disk: Bytes of the file system on which they lie.
    """
    room = min(int(disk * SHARE), LARGEST)
    return room // GIB * GIB // MIB if room >= SMALLEST else 0
