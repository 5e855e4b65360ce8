"""llama.cpp's server tests, out of the source that the role `llama_cpp` builds from."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from heartcode_models.cache import cache_directory

from tools.peer.arguments import MODEL
from tools.peer.differences import Outcomes

_ROOT = Path(__file__).parents[2]
_ROLE = _ROOT / "roles" / "llama_cpp"
# The tests, and the chat templates that they name by their paths.
_PARTS = ("tools/server/tests", "models/templates")

DIRECT, PROXIED = (Path(__file__).with_name(f"{name}.py") for name in ("direct", "proxied"))


def source() -> Path:
    """Return the archive with the pinned source, verified; it is downloaded if it has to be.

    Raises:
        SystemExit: it cannot be had; why has been said.
    """
    pins = yaml.safe_load((_ROLE / "defaults" / "main.yml").read_text())
    version, sha256 = pins["llama_cpp_source_version"], pins["llama_cpp_source_sha256"]
    archive = cache_directory() / "llama.cpp" / f"llama_cpp_python-{version}.tar.gz"
    fetch = [sys.executable, str(_ROLE / "files" / "fetch_source.py"), "--output", str(archive)]
    done = subprocess.run([*fetch, "sdist", str(version), sha256], check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return archive


def unpack(archive: Path, directory: Path) -> Path:
    """Unpack the tests below `directory`; return where they lie."""
    inside = f"{archive.name.removesuffix('.tar.gz')}/vendor/llama.cpp"
    wanted = tuple(f"{inside}/{part}/" for part in _PARTS)
    with tarfile.open(archive) as packed:
        members = [member for member in packed if member.name.startswith(wanted)]
        packed.extractall(directory, members, filter="data")
    tests = directory / inside / _PARTS[0]
    if not (tests / "conftest.py").exists():
        raise SystemExit(
            f"{archive} has no {_PARTS[0]}: the pinned source has been packed otherwise"
        )
    return tests


def run(
    tests: Path, server: Path, *, outcomes: Path, model: Path, port: int, only: Sequence[str]
) -> Outcomes:
    """Run the tests against one kind of server; their output goes on to stdout.

    Args:
        tests: where they lie.
        server: the program that they start: `DIRECT` or `PROXIED`.
        outcomes: the file for what comes out.
        model: the counting model.
        port: where the server under test is to listen.
        only: patterns for the ids of those to be run.

    Raises:
        SystemExit: pytest did not get to its end.
    """
    env = {
        **os.environ,
        MODEL: str(model),
        "LLAMA_SERVER_BIN_PATH": str(server),
        "LLAMA_CACHE": str(tests / "tmp"),
        "TMPDIR": str(tests / "tmp"),
        "PORT": str(port),
        "PYTHONPATH": f"{_ROOT}:{_ROOT / 'app'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    (tests / "tmp").mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "pytest", "-p", "tools.peer.plugin", "-p", "no:cacheprovider"),
        # Without -c the files named here would decide where the tests' ids begin.
        *("-c", "pytest.ini", "-m", "not slow", "--tb=short", "-q", "-ra"),
        *("--peer-outcomes", str(outcomes)),
        *(f"--peer-only={pattern}" for pattern in only),
    ]
    # A session of its own: what a test leaves running ends with it.
    pytest = subprocess.Popen(command, cwd=tests, env=env, start_new_session=True)
    try:
        pytest.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(pytest.pid, signal.SIGKILL)
        pytest.wait()
    if pytest.returncode not in (0, 1):
        raise SystemExit(f"pytest ended with {pytest.returncode} before all tests had been run")
    found: Outcomes = json.loads(outcomes.read_text())
    return found
