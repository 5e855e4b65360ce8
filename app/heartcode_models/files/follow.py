"""How far a download of another process is, told by the file that grows."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from heartcode_models.files.part import part_path
from heartcode_models.units import gigabytes

_PAUSE_SECONDS = 0.2
_MINUTE, _HOUR = 60, 3600


def follow(
    question: Mapping[str, Any],
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Wait until a download has ended or some seconds have passed; tell where it is.

    Args:
        question: ``directory``, ``file``, ``size`` (bytes) and ``sha256`` as for `host.fetch`,
            ``result`` (the file in which Ansible's async wrapper notes the end of the job) and
            ``seconds``.
        clock: Gives seconds.
        pause: Waits for so many.
    """
    place = Path(question["directory"]) / question["file"]
    part, result = part_path(place, question["sha256"]), Path(question["result"])
    size = int(question["size"])
    before, began = _size(part), clock()
    while not _ended(result) and clock() - began < question["seconds"]:
        pause(_PAUSE_SECONDS)
    now, seconds = _size(part), clock() - began
    if now == 0:
        # It has its name, or nothing has come.
        return f"{gigabytes(size)} are there" if place.exists() else "nothing has come yet"
    rate = (now - before) / seconds if seconds > 0 else 0.0
    there = f"{gigabytes(now)} of {gigabytes(size)}"
    if now >= size:
        return f"{there}, being verified"
    if rate <= 0:
        return f"{there}, and nothing more for {seconds:.0f} s"
    return f"{there}, {gigabytes(int(rate))}/s, {_duration((size - now) / rate)} to go"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _ended(result: Path) -> bool:
    """Whether the job is over: its wrapper writes the exit status then, and a number before."""
    try:
        return '"rc":' in result.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return "less than a minute"
    if seconds < _HOUR:
        return f"about {seconds / _MINUTE:.0f} min"
    return f"about {seconds / _HOUR:.1f} h"
