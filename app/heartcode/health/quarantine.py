"""Which backends' cards are gone, as their units have found.

`heartcode-llama-server` leaves a file `llama/N.quarantined` in the run directory when the driver
says that its card is gone, and takes it away when the card answers again. Looking for it asks no
driver.
"""

from __future__ import annotations

from pathlib import Path


def is_gone(run_dir: Path, number: int) -> bool:
    """Whether the card of the backend with this number is gone."""
    return (run_dir / "llama" / f"{number}.quarantined").exists()
