"""MiB, and how sizes are written."""

MIB = 1 << 20


def mib(size: int) -> int:
    """Whole MiB that hold `size` bytes."""
    return -(-size // MIB)


def gigabytes(size: int) -> str:
    """A size as people compare it with their disk: 4.9 GB, 512 MB, 3 kB."""
    for unit, bytes_of in (("GB", 1_000_000_000), ("MB", 1_000_000)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{-(-size // 1000)} kB"
