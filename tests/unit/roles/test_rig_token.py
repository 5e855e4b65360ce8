"""The role rig plans with the hub's token, and says it nowhere."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.roles.playing import play

TOKEN = "hf_of_nobody"  # noqa: S105
LOOK = {"ansible.builtin.setup": {"gather_subset": ["!all", "!min", "hardware"]}}


@pytest.mark.ci
@pytest.mark.parametrize("given", ["inventory", "environment"])
def test_the_hub_s_token_is_in_no_output(tmp_path: Path, given: str) -> None:
    variables: dict[str, Any] = {
        "llama_cpp_backend": "cpu",
        "llama_server_gpus": [{"uuid": "one"}],
        "model_file": "there-is-none.gguf",
    }
    if given == "inventory":
        variables["model_hub_token"] = TOKEN
    hub_token = TOKEN if given == "environment" else ""
    done = play(
        tmp_path,
        "rig",
        "preflight",
        variables,
        before=[LOOK],
        options=["-vvv"],
        hub_token=hub_token,
    )
    said = done.stdout + done.stderr
    assert "Note this rig's plan" in done.stdout, said
    assert TOKEN not in said
