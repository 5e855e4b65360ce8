"""Whether a rig that was switched takes requests again: the role's own tasks, on this machine."""

import subprocess
from pathlib import Path

import pytest

from tests.unit.roles.playing import play
from tests.unit.roles.test_generation_programs import GOOD, rig

THEIRS = "HeartCode's playbooks\n"


def verify(tmp_path: Path, url: str) -> subprocess.CompletedProcess[str]:
    port = url.rpartition(":")[2]
    variables = {
        "_generation_draining": str(tmp_path / "draining"),
        "app_port": port,
        "app_metrics_port": port,
        "generation_ready_s": 1,
        "generation_soak_s": 0,
        "rig_backends": [{"model_name": "counting"}],
    }
    return play(tmp_path, "generation", "verify", variables)


def test_one_that_a_person_has_emptied_stays_empty_and_is_not_asked_for_a_token(
    tmp_path: Path,
) -> None:
    (tmp_path / "draining").touch()
    with rig(GOOD, token=503) as url:
        done = verify(tmp_path, url)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as a person has emptied it" in done.stdout
    assert "a token of no model; nothing failed" in done.stdout
    assert (tmp_path / "draining").exists()


@pytest.mark.parametrize(
    "left", [None, pytest.param(THEIRS, marks=pytest.mark.ci)], ids=["serving", "left by a play"]
)
def test_any_other_takes_requests_and_has_to_give_a_token(tmp_path: Path, left: str | None) -> None:
    if left:
        (tmp_path / "draining").write_text(left)
    with rig(GOOD, token=503) as url:
        done = verify(tmp_path, url)
    assert done.returncode != 0
    assert "the proxy gave no token of counting" in done.stdout
    assert not (tmp_path / "draining").exists()
