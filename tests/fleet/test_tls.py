"""The gateway with TLS, in its variants, and for web pages of other origins."""

import json
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fleet.counting import count_to, text_of
from tests.fleet.harness import GATEWAY_PORT, Fleet, refusals, wait_for

OWN = "/etc/heartcode/tls/self_signed"
ORIGIN = "https://chat.example.org"
CHAT = "/v1/chat/completions"
SHOWN_UNTIL = "gateway_tls_certificate_not_after_timestamp_seconds"


@pytest.fixture(scope="module")
def certificate(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The certificate that a gateway with its own has made; without TLS again at the end."""
    directory = tmp_path_factory.mktemp("tls")
    fleet.set_up_gateway(
        directory, gateway_tls="self_signed", gateway_tls_hsts=True, gateway_cors_origins=[ORIGIN]
    )
    wait_for(lambda: speaks_tls(fleet), "nginx has read its new configuration")
    file = directory / "certificate.pem"
    file.write_text(fleet.ssh("gateway", f"cat {OWN}/certificate.pem"))
    yield file
    fleet.set_up_gateway(directory)
    wait_for(
        lambda: requests.get(f"{fleet.url}/health", timeout=30).ok, "it serves without TLS again"
    )
    timers = "systemctl is-active heartcode-certificate.timer heartcode-shown-certificate.timer"
    assert set(fleet.ssh("gateway", timers, check=False).split()) == {"inactive"}
    wait_for(lambda: not fleet.metrics(SHOWN_UNTIL), "no certificate is told of any more")


def base(fleet: Fleet, port: int = 443) -> str:
    return f"https://{fleet.addresses['gateway']}:{port}"


def served(fleet: Fleet) -> str:
    """The certificate that the gateway shows."""
    return ssl.get_server_certificate((fleet.addresses["gateway"], 443), timeout=30)


def speaks_tls(fleet: Fleet) -> bool:
    try:
        return bool(served(fleet))
    except OSError:
        return False


@pytest.mark.parametrize("port", [443, GATEWAY_PORT])
def test_both_ports_speak_tls(fleet: Fleet, certificate: Path, port: int) -> None:
    answer = requests.get(f"{base(fleet, port)}/health", verify=str(certificate), timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"


@pytest.mark.usefixtures("certificate")
def test_who_comes_without_is_told(fleet: Fleet) -> None:
    answer = requests.get(f"{fleet.url}/v1/models", headers=fleet.authorization, timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "https_required"


def test_a_stream_over_http_2_counts(fleet: Fleet, certificate: Path, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text(f"Authorization: Bearer {fleet.key}\nContent-Type: application/json\n")
    body = {
        "messages": [{"role": "user", "content": "Count!"}],
        "max_tokens": 300,
        "stream": True,
    }
    done = subprocess.run(
        [
            *("curl", "-sS", "-N", "--http2", "--cacert", certificate, "-H", f"@{headers}"),
            *("-w", "%{http_version}", "-d", json.dumps(body), base(fleet) + CHAT),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    *lines, version = done.stdout.splitlines()
    assert version == "2"
    told: list[dict[str, Any]] = [
        json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")
    ]
    assert "".join(map(text_of, told)).split() == count_to(300)
    assert "data: [DONE]" in lines


@pytest.mark.usefixtures("certificate")
@pytest.mark.parametrize(
    ("version", "is_spoken"), [("-tls1_1", False), ("-tls1_2", True), ("-tls1_3", True)]
)
def test_old_versions_are_not_spoken(fleet: Fleet, version: str, *, is_spoken: bool) -> None:
    done = subprocess.run(
        ["openssl", "s_client", "-connect", base(fleet).removeprefix("https://"), version],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert ("Cipher is (NONE)" not in done.stdout) == is_spoken, done.stdout


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
        fleet.ssh("gateway", f"systemctl start {unit}")
    report = fleet.ssh("gateway", f"systemd-analyze security --no-pager {unit}.service | tail -n 1")
    assert float(report.split(":")[1].split()[0]) <= 1.5, report


@pytest.fixture
def answers_to(fleet: Fleet, certificate: Path) -> Any:
    # What is shown now may be another one than the file has, since it was renewed.
    del certificate
    file = fleet.directory / "shown.pem"
    file.write_text(served(fleet))

    def ask(method: str, path: str, origin: str, **fields: Any) -> requests.Response:
        headers = {"Origin": origin} | fields.pop("headers", {})
        return requests.request(
            method, base(fleet) + path, headers=headers, verify=str(file), timeout=30, **fields
        )

    yield ask
    file.unlink()


def test_a_known_origin_may_ask(fleet: Fleet, answers_to: Any) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    first = answers_to("OPTIONS", CHAT, ORIGIN, headers=asked)
    assert (first.status_code, first.content) == (204, b"")
    assert first.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert "POST" in first.headers["Access-Control-Allow-Methods"]
    key = fleet.authorization
    body = {"messages": [{"role": "user", "content": "Count!"}], "max_tokens": 2, "stream": True}
    answers = [
        first,
        answers_to("POST", CHAT, ORIGIN, headers=key, json=body),
        answers_to("GET", "/health", ORIGIN),
        answers_to("GET", "/v1/models", ORIGIN),
        answers_to("POST", CHAT, ORIGIN, headers=key, data="{"),
        answers_to("GET", "/nowhere", ORIGIN, headers=key),
    ]
    assert [answer.status_code for answer in answers] == [204, 200, 200, 401, 400, 404]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", f"{ORIGIN}.evil.example", "http://chat.example.org", "null"]
)
def test_any_other_origin_may_not(answers_to: Any, origin: str) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    first = answers_to("OPTIONS", CHAT, origin, headers=asked)
    assert first.status_code == 401
    for answer in (first, answers_to("GET", "/health", origin)):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert answer.headers["Vary"] == "Origin"


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
    told = refusals(fleet.playbook("--extra-vars", f"@{file}", playbook="tests/fleet/gateway.yml"))
    assert f"the key {other['gateway_tls_key']} does not belong to the certificate" in told
    assert served(fleet) == before
    said = fleet.set_up_gateway(tmp_path, gateway_tls="files", **own)
    ours = Path(own["gateway_tls_certificate"]).read_text().strip()
    wait_for(lambda: served(fleet).strip() == ours, "it is shown")
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
    done = fleet.playbook(*arguments, playbook="tests/fleet/gateway.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+    ssl_certificate /etc/letsencrypt/live/heartcode/fullchain.pem;" in done.stdout
    assert "location /.well-known/acme-challenge/" in done.stdout
    file.write_text(json.dumps(wanted | {"gateway_tls_names": ["10.0.0.1"]}))
    told = refusals(fleet.playbook(*arguments, playbook="tests/fleet/gateway.yml"))
    assert "set gateway_tls_names to the public names of this host" in told
