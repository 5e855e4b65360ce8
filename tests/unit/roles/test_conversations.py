"""What becomes of conversations in files when a deployment wants none: the role's own tasks."""

from pathlib import Path

import pytest

from tests.unit.roles.playing import play


def remove_old(tmp_path: Path, mib: str) -> str:
    variables = {
        "llama_server_conversations_mib": mib,
        "rig_facts": {"disk_mib": 100_000},
        "_llama_server_conversations_dir": str(tmp_path / "conversations"),
        "_llama_server_kept_dir": str(tmp_path / "kept"),
        "_llama_server_kept_models": [],
    }
    done = play(tmp_path, "llama_server", "remove_old", variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("mib", "stays"), [("0", False), ("64", True), ("planned", True)])
def test_nothing_that_clients_said_is_left_where_none_is_kept(
    tmp_path: Path, mib: str, *, stays: bool
) -> None:
    conversations = tmp_path / "conversations"
    conversations.mkdir()
    for name in ("a.kv", "a.json", "secret"):
        (conversations / name).write_text("a word of somebody")
    said = remove_old(tmp_path, mib)
    assert len(list(conversations.iterdir())) == (3 if stays else 0)
    assert "changed=0 " in (said if stays else remove_old(tmp_path, mib)), "a second run is idle"
