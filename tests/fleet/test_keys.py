"""Keys of a deployment: nobody is told one, and one that is revoked ends nothing.

What they open is asked in tests/gateway.
"""

import stat
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.counting import chat, count_to, events, text_of
from tests.fleet.harness import Fleet, wait_for

MODELS = "/v1/models"
#: A key for each client, new with each run.
SECRETS = {name: f"{name}-{uuid.uuid4().hex}" for name in ("bea", "emil")}


def clients(fleet: Fleet, *without: str) -> list[dict[str, Any]]:
    """Keys without limits and with all; the one that the fleet's other tests use stays."""
    every: list[dict[str, Any]] = [
        {"name": "default", "key": fleet.key},
        {
            "name": "bea",
            "key": SECRETS["bea"],
            "requests_per_minute": 2,
            "parallel": 1,
            "models": ["counting"],
            "expires": "2999-12-31",
        },
        {"name": "emil", "key": SECRETS["emil"]},
    ]
    return [entry for entry in every if entry["name"] not in without]


@pytest.fixture(scope="module")
def said(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What Ansible said when it set up a gateway with these clients."""
    directory = tmp_path_factory.mktemp("keys")
    yield fleet.set_up_gateway(directory, gateway_api_keys=clients(fleet))
    told = " ".join(fleet.set_up_gateway(directory).split())
    assert f"one API key lies in {fleet.directory}/gateway.key" in told
    assert fleet.key not in told


pytestmark = pytest.mark.usefixtures("said")


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRETS[name]}"}


def get(fleet: Fleet, path: str, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.get(fleet.url + path, headers=headers or {}, timeout=30)


@contextmanager
def rigs_at_rest(fleet: Fleet) -> Iterator[None]:
    """No token comes meanwhile, and nobody takes that for a hang."""
    env, unit = "/etc/heartcode/heartcode.env", "heartcode.service"
    patience = r"HEARTCODE_SUSPECT_S=600\nHEARTCODE_TOKEN_SILENCE_TIMEOUT_S=600"
    signal = "systemctl kill --signal={} 'heartcode-llama@*.service'"
    with ExitStack() as undo:
        for rig in fleet.rigs:
            undo.callback(fleet.ssh, rig, f"mv {env}.kept {env} && systemctl reload {unit}")
            change = f"cp -a {env} {env}.kept && printf '{patience}\\n' >>{env}"
            fleet.ssh(rig, f"{change} && systemctl reload {unit}")
        for rig in fleet.rigs:
            undo.callback(fleet.ssh, rig, signal.format("CONT"))
            fleet.ssh(rig, signal.format("STOP"))
        yield


def test_no_key_is_told_and_none_is_on_a_disk(fleet: Fleet, said: str) -> None:
    secrets = [*SECRETS.values(), fleet.key]
    assert [secret for secret in secrets if secret in said] == []
    patterns = " ".join(f"-e {secret}" for secret in secrets)
    places = "/etc/nginx /etc/heartcode /var/log /root /tmp /var/tmp"
    assert fleet.ssh("gateway", f"grep -rlsF {patterns} {places}", check=False) == ""
    hashes = fleet.ssh("gateway", "stat -c '%a %U' /etc/nginx/heartcode/*/clients.js")
    assert hashes == "600 root"


def test_the_key_that_was_made_is_for_its_owner_alone(fleet: Fleet) -> None:
    mode = (fleet.directory / "gateway.key").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600


@pytest.mark.ci
@pytest.mark.usefixtures("disturbs")
def test_a_revoked_key_ends_nothing_that_runs(fleet: Fleet, tmp_path: Path, said: str) -> None:
    assert said
    with ExitStack() as running:
        with rigs_at_rest(fleet):
            stream = running.enter_context(
                chat(fleet, max_tokens=50, stream=True, headers=key("emil"))
            )
            fleet.set_up_gateway(tmp_path, gateway_api_keys=clients(fleet, "emil"))
            wait_for(
                lambda: get(fleet, MODELS, key("emil")).status_code == 401, "the key is revoked"
            )
            assert get(fleet, MODELS, fleet.authorization).status_code == 200
        assert "".join(map(text_of, events(stream))).split() == count_to(50)
