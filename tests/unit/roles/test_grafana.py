"""What the role grafana writes, rendered by Ansible; Grafana itself is not in Debian."""

import configparser
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
ROLE = ROOT / "roles/grafana"
TEMPLATES = {
    "grafana.ini": "grafana.ini.j2",
    "datasource.yml": "datasource.yml.j2",
    "dashboards.yml": "dashboards.yml.j2",
    "source": "heartcode-grafana.sources.j2",
}


def render(directory: Path, *options: str) -> dict[str, str]:
    """Render the templates and the password; return them by name."""
    role = directory / "roles/grafana"
    role.mkdir(parents=True, exist_ok=True)
    for part in ("defaults", "vars"):
        if not (role / part).exists():
            (role / part).symlink_to(ROLE / part)
    # Lookups render in Ansible's own process; the module would start programs for each file.
    found = {
        name: f"{{{{ lookup('ansible.builtin.template', '{ROLE / 'templates' / template}') }}}}"
        for name, template in TEMPLATES.items()
    } | {"password": "{{ _grafana_admin_password }}"}
    tasks = [
        {"ansible.builtin.set_fact": {"found": found}},
        {
            "ansible.builtin.copy": {
                "content": "{{ found | to_json }}",
                "dest": f"{directory}/found",
            }
        },
    ]
    (role / "tasks").mkdir(exist_ok=True)
    (role / "tasks/main.yml").write_text(yaml.safe_dump(tasks))
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False}
    (directory / "play.yml").write_text(yaml.safe_dump([play | {"roles": ["grafana"]}]))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            "play.yml",
            *("-i", "localhost,", "-e", f"ansible_python_interpreter={sys.executable}"),
            *("-e", f"grafana_admin_password_file={directory}/made"),
            *options,
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rendered: dict[str, str] = json.loads((directory / "found").read_text())
    return rendered


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return render(tmp_path_factory.mktemp("grafana"), "-e", "prometheus_scrape_interval=5s")


def test_nobody_gets_in_without_an_account_and_nothing_leaves_the_host(
    rendered: dict[str, str],
) -> None:
    ini = configparser.RawConfigParser()
    ini.read_string(rendered["grafana.ini"])
    assert ini["auth.anonymous"]["enabled"] == "false"
    assert ini["users"]["allow_sign_up"] == "false"
    assert ini["server"]["http_addr"] == "127.0.0.1"
    assert ini["analytics"]["reporting_enabled"] == "false"
    path = "/etc/grafana/heartcode-admin-password"
    assert ini["security"]["admin_password"] == "$__file{%s}" % path  # noqa: UP031
    home = ini["dashboards"]["default_home_dashboard_path"]
    assert (ROLE / "files/dashboards" / Path(home).name).exists()


def test_data_source_and_dashboards_find_each_other(rendered: dict[str, str]) -> None:
    (source,) = yaml.safe_load(rendered["datasource.yml"])["datasources"]
    assert (source["uid"], source["url"]) == ("heartcode-prometheus", "http://127.0.0.1:9090")
    assert source["jsonData"]["timeInterval"] == "5s"
    (provider,) = yaml.safe_load(rendered["dashboards.yml"])["providers"]
    ini = rendered["grafana.ini"]
    assert f"default_home_dashboard_path = {provider['options']['path']}/heartcode-fleet" in ini


def test_the_repository_is_believed_only_with_its_key(rendered: dict[str, str]) -> None:
    lines = rendered["source"].splitlines()
    assert "URIs: https://apt.grafana.com" in lines
    assert "Signed-By: /etc/apt/keyrings/heartcode-grafana.asc" in lines


def test_a_password_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first = render(tmp_path)["password"]
    assert len(first) == 32
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o600
    assert render(tmp_path)["password"] == first


def test_the_vault_s_password_counts_and_none_is_made(tmp_path: Path) -> None:
    given = {"vault_grafana_admin_password": "it's $5 # %(x)s"}
    files = render(tmp_path, "-e", json.dumps(given))
    assert files["password"] == given["vault_grafana_admin_password"]
    assert files["password"] not in files["grafana.ini"]
    assert not (tmp_path / "made").exists()
