"""Writes down what a backup holds, or checks it: manifest.py write|check DIRECTORY."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

NAME = "manifest.json"
FORMAT = 1


def digest(path: Path) -> str:
    """Return a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a backup by its path in it."""
    return {
        str(path.relative_to(directory)): digest(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path != directory / NAME
    }


def write(directory: Path) -> None:
    """Let only the owner read it, and write down what it holds."""
    for path in directory.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    text = json.dumps({"format": FORMAT, "files": files(directory)}, indent=2) + "\n"
    beside = directory / f".{NAME}"
    beside.touch(mode=0o600)
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(directory / NAME)


def faults(directory: Path) -> list[str]:
    """Return what is not as it was written down."""
    try:
        told = json.loads((directory / NAME).read_text())
        kept = dict(told["files"])
        known = told["format"] == FORMAT
    except FileNotFoundError:
        return ["has no manifest.json: it is no backup, or one that did not come to its end"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"has a manifest.json that cannot be read ({error})"]
    if not known:
        return [f"is of another format than {FORMAT}"]
    there = files(directory)
    said = [f"lacks {name}" for name in sorted(kept.keys() - there.keys())]
    said += [f"holds {name} besides" for name in sorted(there.keys() - kept.keys())]
    return said + [
        f"holds another {name} than was backed up"
        for name in sorted(kept.keys() & there.keys())
        if kept[name] != there[name]
    ]


def main() -> None:
    """Do it."""
    verb, directory = sys.argv[1], Path(sys.argv[2])
    if verb == "write":
        write(directory)
    elif said := faults(directory):
        sys.exit(f"{directory} {'; '.join(said)}.")


if __name__ == "__main__":
    main()
