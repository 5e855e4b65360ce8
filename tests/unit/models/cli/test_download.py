"""scripts/download_model.sh as people run it."""

import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from heartcode_models.catalogue.entries import CATALOGUE, Catalogue
from heartcode_models.cli.download import listing
from heartcode_models.files.part import part_path

from tests.model_hub import COMMIT, ModelHub
from tests.unit.models.conftest import NAME, REPOSITORY
from tests.unit.models.files.test_download import PIECE

SCRIPT = Path(__file__).parents[4] / "scripts/download_model.sh"


class Command:
    """The script with a hub, a directory, a catalogue and a lock file of its own."""

    def __init__(self, hub: ModelHub, catalogue: Path) -> None:
        self.hub = hub
        self.directory = catalogue.parent / "models"
        self.lock = catalogue.parent / "lock.json"
        self.file = self.directory / NAME
        self.argv = [
            *(str(SCRIPT), "--directory", str(self.directory)),
            *("--catalogue", str(catalogue), "--lock", str(self.lock)),
        ]
        self.environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HEARTCODE_CACHE_DIR": str(catalogue.parent / "cache"),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.argv, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture
def command(hub: ModelHub, catalogue: Path) -> Command:
    return Command(hub, catalogue)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_model_is_downloaded_verified_and_pinned(command: Command, model: bytes) -> None:
    done = command.run("counting", "Q4_K_M")
    assert done.returncode == 0, done.stderr
    sha256 = hashlib.sha256(model).hexdigest()
    assert command.file.read_bytes() == model
    assert f"Licence: mit, see {command.hub.url}/{REPOSITORY}" in done.stdout
    assert f"{command.file} is complete: SHA-256 {sha256}" in done.stdout
    assert "model_name: counting, model_quantisation: Q4_K_M" in done.stdout
    assert "Prompts: None is needed." in done.stdout
    assert json.loads(command.lock.read_text())["files"] == {
        f"{REPOSITORY}/{NAME}": {
            "asked": "main",
            "commit": COMMIT,
            "sha256": sha256,
            "size": len(model),
        }
    }


def test_a_second_run_needs_no_hub(command: Command) -> None:
    command.run("counting", "Q4_K_M")
    before = len(command.hub.asked)
    done = command.run("counting", "q4_k_m", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "was there already" in done.stdout
    assert len(command.hub.asked) == before


def test_every_later_download_must_match_the_pin(command: Command, model: bytes) -> None:
    command.run("counting", "Q4_K_M")
    command.file.unlink()
    pins = command.lock.read_text()
    command.hub.files[f"{REPOSITORY}/{NAME}"] = model[:-1] + bytes([model[-1] ^ 1])
    done = command.run("counting", "Q4_K_M")
    assert done.returncode == 1
    assert "it is thrown away" in done.stderr
    assert list(command.directory.iterdir()) == []
    assert command.lock.read_text() == pins

    command.hub.commit = "f" * 40
    done = command.run("counting", "Q4_K_M", "--update")
    assert done.returncode == 0, done.stderr
    assert command.file.read_bytes() == command.hub.files[f"{REPOSITORY}/{NAME}"]
    assert (
        json.loads(command.lock.read_text())["files"][f"{REPOSITORY}/{NAME}"]["commit"] == "f" * 40
    )


def test_a_pinned_model_is_asked_for_by_its_commit(command: Command) -> None:
    command.run("counting", "Q4_K_M")
    command.file.unlink()
    command.hub.asked.clear()
    command.run("counting", "Q4_K_M")
    assert [asked.path for asked in command.hub.to("hub")] == [
        f"/{REPOSITORY}/resolve/{COMMIT}/{NAME}"
    ]


def test_nothing_is_pinned_that_did_not_arrive(command: Command) -> None:
    command.hub.does.told_sha256 = "0" * 64
    done = command.run("counting", "Q4_K_M")
    assert done.returncode == 1
    assert "must be 0000" in done.stderr
    assert not command.lock.exists()
    assert list(command.directory.iterdir()) == []


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A shell in the background starts the tests with SIGINT ignored, and children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_an_interrupted_download_goes_on(command: Command, model: bytes) -> None:
    command.hub.does.stalls = [3 * PIECE]
    part = part_path(command.file, hashlib.sha256(model).hexdigest())
    with subprocess.Popen(
        [*command.argv, "counting", "Q4_K_M"],
        env=command.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_for(lambda: part.exists() and part.stat().st_size == 3 * PIECE)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=30)[0]
    assert process.returncode == 130
    assert "interrupted; what has come is kept, and the same command goes on" in output
    assert "Traceback" not in output
    assert not command.file.exists()
    done = command.run("counting", "Q4_K_M")
    assert done.returncode == 0, done.stderr
    assert [asked.range for asked in command.hub.to("cdn")] == ["", f"bytes={3 * PIECE}-"]
    assert command.file.read_bytes() == model


def test_a_terminal_shows_a_bar(command: Command) -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    with subprocess.Popen(
        [*command.argv, "counting", "Q4_K_M"], env=command.environment, stderr=follower
    ) as process:
        os.close(follower)
        shown = b""
        try:
            while piece := os.read(leader, 65536):
                shown += piece
        except OSError:
            pass  # the other end of a terminal closes with EIO
    os.close(leader)
    assert process.returncode == 0
    assert re.search(rf"{NAME}: 100%\|.*\d+(\.\d+)?M/5\.\d+M \[".encode(), shown), shown


def test_a_log_gets_lines(command: Command) -> None:
    lines = command.run("counting", "Q4_K_M").stderr.splitlines()
    assert lines[0] == f"{NAME}: 5.3 MB"
    assert lines[-1] == f"{NAME}: 100 %"
    assert len(lines) == 11


def test_a_token_is_used_and_never_shown(command: Command) -> None:
    command.hub.does.token = "hf_secret"  # noqa: S105
    done = command.run("counting", "Q4_K_M", HF_TOKEN="hf_secret")  # noqa: S106
    assert done.returncode == 0, done.stderr
    wrong = command.run("counting", "Q4_K_M", "--update", HF_TOKEN="hf_other")  # noqa: S106
    assert wrong.returncode == 1
    assert "the token in HF_TOKEN is not accepted" in wrong.stderr
    written = [path.read_text(errors="replace") for path in command.lock.parent.rglob("*.json")]
    for text in (done.stdout, done.stderr, wrong.stdout, wrong.stderr, *written):
        assert "hf_secret" not in text
        assert "hf_other" not in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("nothing", "Q4_K_M"), 1, "no model 'nothing'; the catalogue has counting"),
        (("counting", "Q9"), 1, "no quantisation 'Q9' of counting; there are Q4_K_M, Q6_K"),
        (("counting",), 1, "no quantisation for counting; there are Q4_K_M, Q6_K"),
        (("counting", "Q6_K"), 1, f"{REPOSITORY}: .* answers 404 Not Found: there is no such file"),
        ((), 2, "name a model and a quantisation"),
        (("counting", "Q4_K_M", "more"), 2, "unrecognized arguments: more"),
        (("counting", "Q4_K_M", "--lock", "/nowhere/lock"), 1, "/nowhere/lock: cannot be written"),
    ],
)
def test_bad_input_gets_one_clear_line(
    command: Command, arguments: tuple[str, ...], status: int, message: str
) -> None:
    done = command.run(*arguments)
    assert done.returncode == status
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("download_model.sh: ")


def test_the_list_shows_what_there_is(command: Command) -> None:
    done = command.run("--list")
    assert done.returncode == 0
    assert re.search(
        r"counting +The model that counts\n +Q4_K_M, Q6_K; 4096 tokens; mit", done.stdout
    )


def test_a_long_name_leaves_the_list_in_columns() -> None:
    catalogue = Catalogue.read(CATALOGUE)
    lines = listing(catalogue).splitlines()
    assert len(lines) == 3 * len(catalogue.entries)
    starts = {len(line) - len(line.lstrip()) for number, line in enumerate(lines) if number % 3}
    assert starts == {max(map(len, catalogue.entries)) + 2}
    (start,) = starts
    assert all(line[start - 1] == " " != line[start] for line in lines)


def test_it_runs_from_anywhere_and_through_a_link(command: Command, tmp_path: Path) -> None:
    link = tmp_path / "download"
    link.symlink_to(SCRIPT)
    done = subprocess.run(
        [link, "--list"], cwd="/", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "stheno" in done.stdout
    assert command.hub.asked == []


def test_without_the_packages_it_says_how_to_get_them() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT.with_name("download_model.py"), "--list"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "is not installed: run `make bootstrap`" in done.stderr
