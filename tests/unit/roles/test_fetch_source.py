"""llama.cpp's source from a git repository, at a pinned commit."""

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

FETCH = Path(__file__).parents[3] / "roles/llama_cpp/files/fetch_source.py"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    (path / "CMakeLists.txt").write_text("project(llama.cpp)\n")
    git(path, "init", "--quiet")
    git(path, "add", "--all")
    git(path, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "--quiet", "-m", "first")
    return path


def git(repository: Path, *arguments: str) -> str:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def fetch(output: Path, url: object, commit: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FETCH), "--output", str(output), "git", str(url), commit]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_a_commit_is_packed_once(repository: Path, tmp_path: Path) -> None:
    output, commit = tmp_path / "cache/source.tar.gz", git(repository, "rev-parse", "HEAD")
    assert fetch(output, repository, commit).stdout == "fetched\n"
    with tarfile.open(output) as archive:
        assert "llama.cpp/CMakeLists.txt" in archive.getnames()
    assert fetch(output, repository, commit).stdout == "present\n"


def test_an_unknown_commit_leaves_nothing_and_says_what_to_do(
    repository: Path, tmp_path: Path
) -> None:
    output = tmp_path / "cache/source.tar.gz"
    done = fetch(output, repository, "0" * 40)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "check llama_cpp_git_url and llama_cpp_git_commit" in done.stderr
    assert list(output.parent.iterdir()) == []
