"""The gateway with certificates by ACME, from Pebble, the test server of Let's Encrypt's makers.

It stands on the gateway itself, where /etc/hosts leads it from the gateway's public name to nginx.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fleet.harness import Fleet, wait_for
from tests.fleet.test_tls import served

pytestmark = pytest.mark.long

NAME, NOWHERE = "chat.example.org", "nowhere.example.org"
UNIT = "pebble-of-a-test"
DIRECTORY = "/run/pebble-of-a-test"
#: Where a host keeps whom it trusts beside the usual authorities; one file, taken away at the end.
TRUSTED = "/usr/local/share/ca-certificates/pebble-of-a-test.crt"
CONFIGURATION = {
    "pebble": {
        "listenAddress": "127.0.0.1:14000",
        "managementListenAddress": "127.0.0.1:15000",
        "certificate": f"{DIRECTORY}/certificate.pem",
        "privateKey": f"{DIRECTORY}/key.pem",
        "httpPort": 80,
        "tlsPort": 443,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": False,
    }
}
# It would wait some seconds before each look at a challenge.
START = f"""
set -e
apt-get -qq install --no-install-recommends pebble >/dev/null
mkdir -p {DIRECTORY}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \\
  -addext subjectAltName=DNS:localhost,IP:127.0.0.1 \\
  -keyout {DIRECTORY}/key.pem -out {TRUSTED} 2>/dev/null
cp {TRUSTED} {DIRECTORY}/certificate.pem
update-ca-certificates >/dev/null 2>&1
cat > {DIRECTORY}/configuration.json <<'END'
{json.dumps(CONFIGURATION)}
END
cp /etc/hosts {DIRECTORY}/hosts
echo 127.0.0.1 {NAME} >> /etc/hosts
systemd-run --quiet --collect --unit={UNIT} --setenv=PEBBLE_VA_NOSLEEP=1 \\
  pebble -config {DIRECTORY}/configuration.json
"""
STOP = f"""
systemctl stop {UNIT}
cat {DIRECTORY}/hosts > /etc/hosts
rm -rf {TRUSTED} {DIRECTORY} /etc/letsencrypt
update-ca-certificates --fresh >/dev/null 2>&1
apt-get -qq purge pebble certbot >/dev/null
"""


def shown(fleet: Fleet) -> str:
    """What the certificate that the gateway shows says of itself."""
    fields = ("-serial", "-issuer", "-ext", "subjectAltName")
    return subprocess.run(
        ["openssl", "x509", "-noout", *fields],
        input=served(fleet),
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def acme(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the role was told to get a certificate; all is taken away again at the end."""
    told = {
        "gateway_tls": "acme",
        "gateway_tls_names": [NAME],
        "gateway_acme_server": "https://localhost:14000/dir",
        "gateway_acme_email": "owner@example.org",
    }
    fleet.ssh("gateway", START)
    try:
        listens = "ss -Hlnt 'sport = :14000'"
        wait_for(lambda: fleet.ssh("gateway", listens), "the ACME server listens")
        fleet.set_up_gateway(tmp_path_factory.mktemp("acme"), **told)
        yield told
        fleet.set_up_gateway(tmp_path_factory.mktemp("off"))
        left = fleet.ssh("gateway", "ls -d /etc/nginx/sites-*/*acme* /var/lib/heartcode/acme; true")
        assert left == "", "nothing answers challenges any more"
    finally:
        fleet.ssh("gateway", STOP)
    assert requests.get(f"{fleet.url}/health", timeout=30).status_code == 200


def test_a_certificate_is_fetched_kept_and_renewed(
    fleet: Fleet, acme: dict[str, Any], tmp_path: Path
) -> None:
    first = shown(fleet)
    assert "Pebble" in first
    assert f"DNS:{NAME}\n" in first
    assert fleet.ssh("gateway", "systemctl is-active certbot.timer") == "active"
    assert "changed=0" in fleet.set_up_gateway(tmp_path, **acme)
    assert shown(fleet) == first
    # As the timer does it, near the certificate's end; nginx is told of it.
    fleet.ssh("gateway", "certbot renew --quiet --force-renewal --no-random-sleep-on-renew")
    wait_for(lambda: shown(fleet) != first, "the renewed one is shown")
    assert "Pebble" in shown(fleet)


def test_a_name_that_does_not_lead_here_leaves_what_serves(
    fleet: Fleet, acme: dict[str, Any], tmp_path: Path
) -> None:
    before = shown(fleet)
    file = tmp_path / "nowhere.yml"
    file.write_text(json.dumps(acme | {"gateway_tls_names": [NAME, NOWHERE]}))
    done = fleet.playbook("--extra-vars", f"@{file}", playbook="playbooks/gateway.yml")
    assert done.returncode != 0
    assert f"gave gateway no certificate for {NAME}, {NOWHERE}" in done.stdout
    assert f"Domain: {NOWHERE}" in done.stdout  # certbot's reason
    assert shown(fleet) == before


def test_another_server_s_certificate_replaces_one_that_lasts(
    fleet: Fleet, acme: dict[str, Any], tmp_path: Path
) -> None:
    first = shown(fleet)
    # The same server under another name: to certbot it is another one.
    other = {"gateway_acme_server": "https://127.0.0.1:14000/dir"}
    fleet.set_up_gateway(tmp_path, **acme | other)
    wait_for(lambda: shown(fleet) != first, "a new one is shown")


@pytest.mark.usefixtures("acme")
def test_who_forgets_the_s_is_sent_on(fleet: Fleet) -> None:
    url = f"http://{fleet.addresses['gateway']}/status?key=1"
    answer = requests.get(url, headers={"Host": NAME}, allow_redirects=False, timeout=30)
    assert answer.status_code == 301
    assert answer.headers["Location"] == f"https://{NAME}/status?key=1"
