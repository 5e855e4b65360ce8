"""The chat templates that llama.cpp's source brings along, of the pinned version."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

_ROLE = Path(__file__).parents[2] / "roles" / "llama_cpp"


def folder() -> Path:
    """Return the folder with the templates, `NAME.jinja`; fetched and unpacked once."""
    pinned = yaml.safe_load((_ROLE / "defaults" / "main.yml").read_text())
    version, sha256 = pinned["llama_cpp_source_version"], pinned["llama_cpp_source_sha256"]
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("HEARTCODE_CACHE_DIR") or Path(base, "heartcode"), "llama.cpp")
    unpacked = cache / f"templates-{sha256[:12]}"
    if unpacked.exists():
        return unpacked
    source = cache / f"llama_cpp_python-{version}.tar.gz"
    fetch = _ROLE / "files" / "fetch_source.py"
    subprocess.run(
        [sys.executable, fetch, "--output", source, "sdist", version, sha256],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    with TemporaryDirectory(dir=cache, prefix=".templates-") as scratch:
        with tarfile.open(source) as files:
            for member in files:
                path = Path(member.name)
                content = files.extractfile(member) if member.isfile() else None
                if content and path.parts[-3:-1] == ("models", "templates"):
                    Path(scratch, path.name).write_bytes(content.read())
        Path(scratch).chmod(0o755)
        Path(scratch).rename(unpacked)
        Path(scratch).mkdir()  # for its end
    return unpacked
