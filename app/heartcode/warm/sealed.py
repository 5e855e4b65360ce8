"""Small files that are whole or nothing: a line of JSON, and a hash of it below.

    sealed.write(directory / "speeds.json", {"version": 1})
    sealed.read(directory / "speeds.json")      # what was written, or SealError

They are for this user alone, and safe on the disk when they have their name. One that was cut or
changed is found out; with a key, also one that somebody has made who does not have it.
"""

from __future__ import annotations

import hmac
import json
import os
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any


class SealError(Exception):
    """The file is not as it was written; says why."""


def write(path: Path, value: object, *, key: bytes = b"") -> None:
    """Write `value` to a file, in the place of what it held.

    Raises:
        OSError: that cannot be done, and the file is as it was.
    """
    line = json.dumps(value).encode()
    part = path.with_name(f"{path.name}.part")
    with suppress(FileNotFoundError):
        part.unlink()  # somebody was broken off
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - it is open
            file.write(line + b"\n" + _seal(path, line, key) + b"\n")
            file.flush()
            os.fsync(descriptor)
        part.rename(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


def read(path: Path, *, key: bytes = b"") -> Any:
    """Return what was written to a file.

    Raises:
        SealError: it is not as it was written.
        OSError: it cannot be read.
    """
    line, _, seal = path.read_bytes().partition(b"\n")
    if not hmac.compare_digest(seal, _seal(path, line, key) + b"\n"):
        raise SealError("it was cut or changed")
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SealError("it is no JSON") from error


def _seal(path: Path, line: bytes, key: bytes) -> bytes:
    # With its name: another file's line is none of this one's.
    return blake2b(path.stem.encode() + line, key=key).hexdigest().encode()
