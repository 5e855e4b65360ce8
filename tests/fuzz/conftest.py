"""One rig and one gateway for all requests; which those are is said by the environment.

`make test-fuzz SEED=n REQUESTS=n ONLY=n` sets FUZZ_SEED, FUZZ_REQUESTS and FUZZ_ONLY.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.generated import Case, generated
from tests.fuzz.watching import Rig
from tests.gateway.nginx import NOWHERE, PROMETHEUS, RIGS, Gateway, Variants
from tests.gateway.variants import SECRETS, variants

# What `make test` asks: enough for each kind to come a few times.
_SEED, _REQUESTS = 1, 250
KEY = SECRETS["emil"]


@pytest.fixture(scope="session")
def cases() -> list[Case]:
    requests = int(os.environ.get("FUZZ_REQUESTS") or _REQUESTS)
    only = os.environ.get("FUZZ_ONLY")
    numbers = [int(only)] if only else range(requests)
    return [generated(_seed(), number, KEY) for number in numbers]


def pytest_report_header() -> str:
    return f"fuzzing with SEED={_seed()}"


def repeated_by(case: Case) -> str:
    """Return the command that sends a request alone."""
    return f"make test-fuzz SEED={_seed()} ONLY={case.number}"


def _seed() -> int:
    return int(os.environ.get("FUZZ_SEED") or _SEED)


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("rig"))
    yield rig
    rig.kill()


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, rig: Rig) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("rendered")
    name = "clients"
    site = Variants(directory, {name: variants(Path(), Path())[name]}).site(name)
    # Both of its rigs are the one, so that each of its two models has a rig that works.
    behind = dict.fromkeys(RIGS, rig.proxy.port) | {PROMETHEUS: NOWHERE}
    gateway = Gateway(tmp_path_factory.mktemp("nginx") / "nginx", site, behind=behind, key=KEY)
    yield gateway
    gateway.end()
