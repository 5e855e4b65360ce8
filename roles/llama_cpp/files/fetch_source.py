#!/usr/bin/env python3
"""Fetches the pinned llama.cpp source into the control node's cache and verifies it.

    fetch_source.py --output FILE sdist VERSION SHA256
    fetch_source.py --output FILE git URL COMMIT

Prints "present" or "fetched". An error is one line on stderr that says what to do, exit status 1;
FILE is either absent, as it was, or complete and verified.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PROJECT = "llama-cpp-python"


class FetchError(Exception):
    """What went wrong and what to do about it, in one line."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(command: Sequence[str | Path], *, advice: str) -> None:
    """Run a program; raise FetchError with its last line of output and `advice` if it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("ERROR", "fatal", "error"))]
        last = (errors or lines or [f"{command[0]} ended with {done.returncode}"])[-1]
        raise FetchError(f"{last} {advice}")


def fetch_sdist(version: str, sha256: str, output: Path) -> bool:
    """Download the source distribution with pip unless `output` already has the pinned hash.

    pip finds the index (and a mirror, a proxy or a company CA) as it is set up on this machine.

    Returns:
        Whether a download was needed.
    """
    if output.exists() and sha256_of(output) == sha256:
        return False
    for module in ("pip", "scikit_build_core"):
        if importlib.util.find_spec(module) is None:
            raise FetchError(
                f"{sys.executable} has no {module}, which downloads llama.cpp's source: "
                "install the project's requirements.txt into the environment that runs Ansible."
            )
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".fetch-") as scratch:
        pin = Path(scratch, "pin.txt")
        pin.write_text(f"{PROJECT}=={version} --hash=sha256:{sha256}\n")
        # pip asks the source distribution for its metadata, which is why the build backend
        # (scikit-build-core, pinned with Ansible) is needed; nothing is built.
        run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--no-binary=:all:", "--no-build-isolation", "--require-hashes"),
                *("--disable-pip-version-check", "--dest", scratch, "--requirement", pin),
            ],
            advice=(
                f"(wanted: {PROJECT} {version} with SHA-256 {sha256}. If the hash differs, do not "
                "use the file: restore llama_cpp_source_version and llama_cpp_source_sha256 from "
                "roles/llama_cpp/defaults/main.yml. If nothing was reached, check the network.)"
            ),
        )
        (archive,) = Path(scratch).glob("*.tar.gz")
        if sha256_of(archive) != sha256:
            raise FetchError(f"{archive.name} does not have the SHA-256 {sha256}; it is not used.")
        archive.replace(output)
    return True


def fetch_git(url: str, commit: str, output: Path) -> bool:
    """Clone `url` and pack the tree of `commit`, whose hash is the proof of its content.

    Returns:
        Whether a clone was needed.
    """
    if output.exists():
        return False
    advice = "(check llama_cpp_git_url and llama_cpp_git_commit, and that git is installed.)"
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".fetch-") as scratch:
        clone, archive = Path(scratch, "clone"), Path(scratch, "source.tar.gz")
        run(["git", "clone", "--quiet", "--no-checkout", url, clone], advice=advice)
        run(
            ["git", "-C", clone, "archive", "--prefix=llama.cpp/", "--output", archive, commit],
            advice=advice,
        )
        archive.replace(output)
    return True


def main() -> int:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("kind", choices=("sdist", "git"))
    parser.add_argument("origin", help="version of the source distribution, or a git URL")
    parser.add_argument("pin", help="SHA-256, or a git commit")
    args = parser.parse_args()
    os.umask(0o022)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        fetch = fetch_sdist if args.kind == "sdist" else fetch_git
        print("fetched" if fetch(args.origin, args.pin, args.output) else "present")
    except (FetchError, OSError) as error:
        print(f"llama.cpp source: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
