"""MiB and how sizes are written."""

MIB = 1 << 20


def mib(size: int) -> int:
    """Whole MiB that hold `size` bytes."""
    return -(-size // MIB)
