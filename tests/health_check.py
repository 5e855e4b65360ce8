"""scripts/health_check.sh as a person runs it."""

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts/health_check.sh"


def check(url: str, key: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments, url],
        env=os.environ | {"HEARTCODE_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )


def row(done: subprocess.CompletedProcess[str], *begin: str) -> list[str]:
    """The row of the table that begins with these words."""
    (found,) = [
        words
        for words in map(str.split, done.stdout.split("\n\n")[1].splitlines())
        if words[: len(begin)] == list(begin)
    ]
    return found
