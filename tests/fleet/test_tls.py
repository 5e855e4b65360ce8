"""The certificates of a gateway with TLS; how it speaks with them is asked in tests/gateway."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.fleet.harness import Fleet, refusals, wait_for

pytestmark = pytest.mark.ci

OWN = "/etc/heartcode/tls/self_signed"
SHOWN_UNTIL = "gateway_tls_certificate_not_after_timestamp_seconds"


@pytest.fixture(scope="module")
def certificate(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A gateway that has made its own and shows it; without TLS again at the end."""
    directory = tmp_path_factory.mktemp("tls")
    fleet.set_up_gateway(directory, gateway_tls="self_signed")
    made = fleet.ssh("gateway", f"cat {OWN}/certificate.pem")
    wait_for(lambda: shows(fleet, made), "nginx has read its new configuration")
    yield
    fleet.set_up_gateway(directory)
    wait_for(
        lambda: requests.get(f"{fleet.url}/health", timeout=30).ok, "it serves without TLS again"
    )
    timers = "systemctl is-active heartcode-certificate.timer heartcode-shown-certificate.timer"
    assert set(fleet.ssh("gateway", timers, check=False).split()) == {"inactive"}
    wait_for(lambda: not fleet.metrics(SHOWN_UNTIL), "no certificate is told of any more")


def served(fleet: Fleet) -> str:
    """The certificate that the gateway shows."""
    return ssl.get_server_certificate((fleet.addresses["gateway"], 443), timeout=30).strip()


def shows(fleet: Fleet, certificate: str) -> bool:
    try:
        return served(fleet) == certificate
    except OSError:  # no TLS yet
        return False


@pytest.mark.usefixtures("certificate")
def test_a_certificate_that_ends_soon_is_renewed(fleet: Fleet) -> None:
    unit = "heartcode-certificate"
    assert fleet.ssh("gateway", f"systemctl is-active {unit}.timer") == "active"
    fleet.ssh("gateway", f"systemctl start {unit}.service")
    first = served(fleet)
    again = f"openssl req -new -x509 -key {OWN}/key.pem -config {OWN}/request.cnf"
    ends_soon = f"{again} -days 80 -out {OWN}/certificate.pem && systemctl reload nginx"
    fleet.ssh("gateway", ends_soon)
    wait_for(lambda: served(fleet) != first, "the one that ends soon is shown")
    second = served(fleet)
    fleet.ssh("gateway", f"systemctl start {unit}.service")
    wait_for(lambda: served(fleet) not in (first, second), "it is renewed")
    # Also by the rules of a unit that is locked in.
    report = fleet.ssh("gateway", f"systemd-analyze security --no-pager {unit}.service | tail -n 1")
    assert float(report.split(":")[1].split()[0]) <= 1.5, report


def end_of(certificate: str) -> float:
    """When a certificate ends, in seconds since 1970."""
    done = subprocess.run(
        ["openssl", "x509", "-noout", "-enddate"],
        input=certificate,
        capture_output=True,
        text=True,
        check=True,
    )
    return ssl.cert_time_to_seconds(done.stdout.strip().removeprefix("notAfter="))


def shown_until(fleet: Fleet) -> float | None:
    """When the certificate ends that the gateway shows, if it shows one."""
    try:
        return end_of(served(fleet))
    except OSError:
        return None


@pytest.mark.usefixtures("certificate")
def test_what_is_measured_is_the_certificate_that_is_shown(fleet: Fleet) -> None:
    def told() -> float | None:
        found = fleet.metrics(SHOWN_UNTIL)
        return float(found[0]["value"][1]) if found else None

    unit = "heartcode-shown-certificate"
    assert fleet.ssh("gateway", f"systemctl is-active {unit}.timer") == "active"
    # The deployment has measured it; a test before this one may have had it renewed.
    wait_for(lambda: told() is not None, "a certificate is told of")
    again = f"openssl req -new -x509 -key {OWN}/key.pem -config {OWN}/request.cnf"
    fleet.ssh("gateway", f"{again} -days 4 -out {OWN}/certificate.pem")
    fleet.ssh("gateway", f"systemctl start {unit}")
    shown = end_of(served(fleet))
    assert end_of(fleet.ssh("gateway", f"cat {OWN}/certificate.pem")) != shown
    wait_for(lambda: told() == shown, "the one that is shown is told of, not the one in the file")
    fleet.ssh("gateway", "systemctl reload nginx")
    wait_for(lambda: end_of(served(fleet)) != shown, "the other one is shown")
    fleet.ssh("gateway", f"systemctl start {unit}")
    wait_for(lambda: told() == end_of(served(fleet)), "the other one is told of")
    # It lives for 4 days and has them all before it: that is no reason for an alert.
    assert fleet.metrics('ALERTS{alertname="HeartCodeCertificateExpiring"}') == []
    # Nobody shows anything: what was measured stays, and the unit says why.
    fleet.ssh("gateway", "systemctl stop nginx")
    try:
        failed = fleet.ssh("gateway", f"systemctl start {unit} || echo failed", check=False)
        assert "failed" in failed
        log = fleet.journal("gateway", f"--unit={unit}", "--lines=20")
        assert "127.0.0.1:443 shows no certificate" in log
        assert told() is not None
    finally:
        fleet.ssh("gateway", "systemctl start nginx && systemctl start heartcode-certificate")
        # Its reload is under way: a worker that ends may hang up on who comes a moment before.
        made = end_of(fleet.ssh("gateway", f"cat {OWN}/certificate.pem"))
        wait_for(lambda: shown_until(fleet) == made, "nginx shows it")
        # It has been started more often by now than systemd allows in a while.
        fleet.ssh("gateway", f"systemctl reset-failed {unit}; systemctl start {unit}")
    report = fleet.ssh("gateway", f"systemd-analyze security --no-pager {unit}.service | tail -n 1")
    assert float(report.split(":")[1].split()[0]) <= 1.5, report


def make_certificate(directory: Path, name: str) -> dict[str, str]:
    """A certificate of one's own, as variables of the role."""
    key, file = directory / f"{name}.key", directory / f"{name}.pem"
    subprocess.run(
        [
            *("openssl", "req", "-new", "-x509", "-nodes", "-newkey", "ec", "-days", "30"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-subj", f"/CN={name}"),
            *("-keyout", key, "-out", file),
        ],
        capture_output=True,
        check=True,
    )
    return {"gateway_tls_certificate": str(file), "gateway_tls_key": str(key)}


@pytest.mark.usefixtures("certificate")
def test_a_certificate_of_one_s_own_is_checked_and_served(fleet: Fleet, tmp_path: Path) -> None:
    own, other = (make_certificate(tmp_path, name) for name in ("own", "other"))
    before = served(fleet)
    file = tmp_path / "mixed.yml"
    file.write_text(
        json.dumps({"gateway_tls": "files"} | own | {"gateway_tls_key": other["gateway_tls_key"]})
    )
    told = refusals(fleet.playbook("--extra-vars", f"@{file}", playbook="playbooks/gateway.yml"))
    assert f"the key {other['gateway_tls_key']} does not belong to the certificate" in told
    assert served(fleet) == before
    said = fleet.set_up_gateway(tmp_path, gateway_tls="files", **own)
    ours = Path(own["gateway_tls_certificate"]).read_text().strip()
    wait_for(lambda: served(fleet) == ours, "it is shown")
    secret = Path(own["gateway_tls_key"]).read_text().splitlines()[1]
    assert secret not in said
    modes = fleet.ssh("gateway", "stat -c %a /etc/heartcode/tls/files-*/key.pem")
    assert modes == "600"


def test_an_acme_server_s_certificate_can_be_planned(fleet: Fleet, tmp_path: Path) -> None:
    """What test_acme.py has done for real, on a host that has none of it yet."""
    file = tmp_path / "acme.yml"
    wanted = {"gateway_tls": "acme", "gateway_acme_email": "a@example.org"}
    file.write_text(json.dumps(wanted | {"gateway_tls_names": ["chat.example.org"]}))
    arguments = ("--check", "--diff", "--extra-vars", f"@{file}")
    done = fleet.playbook(*arguments, playbook="playbooks/gateway.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+    ssl_certificate /etc/letsencrypt/live/heartcode/fullchain.pem;" in done.stdout
    assert "location /.well-known/acme-challenge/" in done.stdout
