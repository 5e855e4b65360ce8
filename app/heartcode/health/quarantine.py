"""Which backends' cards are gone, as their units have found.

`heartcode-llama-server` leaves a file `llama/N.quarantined` in the run directory when the driver
says that a card of its backend is gone, and takes it away when all of them answer again. Looking
for it asks no driver.
"""

from __future__ import annotations

from pathlib import Path

#: More than a UUID and what nvidia-smi says in a line.
_MOST_CHARACTERS = 1000


def reason(run_dir: Path, number: int) -> str | None:
    """Which card of the backend with this number is gone and why, `UUID: REASON`.

    None where none is; "" where the file has just been made or cannot be read.
    """
    try:
        with (run_dir / "llama" / f"{number}.quarantined").open(errors="replace") as file:
            return file.read(_MOST_CHARACTERS).strip()
    except FileNotFoundError:
        return None
    except OSError:
        return ""
