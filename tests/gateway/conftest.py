"""What nginx and njs answer, asked of one nginx on the loopback interface: `make gateway-test`.

It is Debian 13's, with the configuration that the role renders, in several variants, and it is
started anew for each test: what a test has done to limits and to marks of rigs ends with it. Behind
it stand two real rigs where a test is about tokens or slots, else stand-ins. What needs systemd, a
play or a network is asked of the fleet (tests/fleet).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from roles.gateway.filter_plugins.relay import relay_addresses
from tests.gateway.nginx import NOWHERE, PROMETHEUS, RELAY, RIGS, ROOT, Gateway, Variants
from tests.gateway.rigs import Rig, say_yes
from tests.gateway.variants import KEY, variants
from tests.integration.misbehaving import Upstream
from tests.integration.processes import GatewayRelay

# Where a relay is asked for each of the rigs.
_RIGS = [{"address": f"127.0.0.1:{port}"} for port in RIGS]
RELAYED = {at: int(rig.split(":")[1]) for rig, at in relay_addresses(_RIGS).items()}

StartGateway = Callable[..., Gateway]

# `HEARTCODE_TEST_RELAY=1 make gateway-test` asks all of it with the relay in between.
EVERY_RELAY = bool(os.environ.get("HEARTCODE_TEST_RELAY"))


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Variants:
    directory = tmp_path_factory.mktemp("rendered")
    own = directory / "self_signed"
    given = variants(own / "certificate.pem", own / "key.pem", relay=EVERY_RELAY)
    rendered = Variants(directory, given)
    own.mkdir()
    (own / "request.cnf").write_text(rendered.file("tls", "request.cnf").read_text())
    make = (ROOT / "systemd/libexec/heartcode-self-signed").read_text()
    assert "/etc/heartcode/tls/self_signed\n" in make
    make = make.replace("/etc/heartcode/tls/self_signed\n", f"{own}\n")
    subprocess.run(["sh", "-c", make], capture_output=True, check=True)
    return rendered


@pytest.fixture(scope="session")
def certificate(rendered: Variants) -> Path:
    """What a client has to trust."""
    return rendered.directory / "self_signed/certificate.pem"


@pytest.fixture(scope="session")
def rigs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Rig]]:
    """rig1 and rig2, whole."""
    directory = tmp_path_factory.mktemp("rigs")
    with ExitStack() as stack:
        started = []
        for name in ("rig1", "rig2"):
            rig = Rig(directory, name)
            stack.callback(rig.kill)
            started.append(rig)
        yield started


@pytest.fixture
def stand_ins() -> Iterator[list[Upstream]]:
    """As many rigs as a gateway has here, that answer everything."""
    with ExitStack() as stack:
        yield [stack.enter_context(Upstream(say_yes)) for _ in RIGS]


@pytest.fixture
def start_gateway(rendered: Variants, tmp_path: Path) -> Iterator[StartGateway]:
    """Start a gateway: `start_gateway("default", rigs=[port, ...], prometheus=port)`.

    Nobody listens where no port is given. `instead` gives other text for some of the site's. A
    variant that keeps streams gets its relay, unless `relay` is false.
    """
    with ExitStack() as stack:

        def start(
            variant: str = "default",
            *,
            rigs: Sequence[int] = (),
            prometheus: int = NOWHERE,
            instead: Mapping[str, str] | None = None,
            relay: bool = True,
        ) -> Gateway:
            site = rendered.site(variant)
            for theirs, ours in (instead or {}).items():
                assert theirs in site
                site = site.replace(theirs, ours)
            behind = dict.fromkeys(RIGS, NOWHERE) | dict(zip(RIGS, rigs, strict=False))
            behind[PROMETHEUS] = prometheus
            relayed = {at: behind[port] for at, port in RELAYED.items()}
            if relay and any(f"{at}:{RELAY}" in site for at in relayed):
                # Where nobody listens each has a place of its own: none is named twice.
                told = list(relayed.values())
                urls = [
                    f"http://127.0.0.{n + 2 if told.count(port) > 1 else 1}:{port}"
                    for n, port in enumerate(told)
                ]
                started = GatewayRelay(tmp_path / f"relay-{variant}", urls, addresses=list(relayed))
                stack.callback(started.kill)
                behind[RELAY] = started.port
            gateway = Gateway(tmp_path / f"nginx-{variant}", site, behind=behind, key=KEY)
            gateway.relayed = relayed
            stack.callback(gateway.end)
            return gateway

        yield start
