"""What must agree among the roles, and between them and the rest."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from heartcode.api.routes import ENDPOINTS, Kind
from heartcode.settings import TABLE
from jinja2.nativetypes import NativeEnvironment

from roles.gateway.filter_plugins.relay import relay_settings

ROOT = Path(__file__).parents[2]
ROLES = sorted(path.name for path in ROOT.glob("roles/*") if path.is_dir())


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def options(role: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = load(f"roles/{role}/meta/argument_specs.yml")[
        "argument_specs"
    ]["main"]["options"]
    return found


@pytest.mark.parametrize("role", ROLES)
def test_defaults_and_argument_specs_name_the_same_variables(role: str) -> None:
    optional = {name for name, option in options(role).items() if not option.get("required")}
    assert set(load(f"roles/{role}/defaults/main.yml")) == optional


@pytest.mark.parametrize("role", ROLES)
def test_a_default_in_the_specs_is_the_role_s_default(role: str) -> None:
    defaults = load(f"roles/{role}/defaults/main.yml")
    for name, option in options(role).items():
        if "default" in option:
            assert option["default"] == defaults[name], name


def test_the_role_app_knows_every_setting() -> None:
    known = load("roles/app/vars/main.yml")
    own, others = known["_app_own_settings"], known["_app_known_settings"]
    relay = known["_app_gateway_settings"]
    assert sorted(own + others + relay) == sorted(row.variable for row in TABLE)
    told = (ROOT / "roles/gateway/templates/relay.env.j2").read_text() + str(
        relay_settings([{"address": "a:1", "models": [{"names": ["m"]}]}], {"a:1": "127.1.1.1"})
    )
    assert [name for name in relay if name not in told] == []
    template = (ROOT / "roles/app/templates/heartcode.env.j2").read_text()
    assert [name for name in own if f"\n{name}=" not in template] == []
    assert "app_settings | dictsort" in template


@pytest.mark.parametrize("role", ROLES)
def test_public_variables_carry_the_role_s_name(role: str) -> None:
    assert [name for name in options(role) if not name.startswith(f"{role}_")] == []


@pytest.mark.parametrize("role", ROLES)
def test_a_role_has_its_parts(role: str) -> None:
    for part in ("README.md", "defaults/main.yml", "meta/main.yml", "tasks/preflight.yml"):
        assert (ROOT / "roles" / role / part).is_file(), part


def test_defaults_repeated_in_other_roles_are_the_defaults() -> None:
    """hostvars do not show another host's role defaults, so a few are written out twice."""
    defaults = {
        name: value
        for role in ROLES
        for name, value in load(f"roles/{role}/defaults/main.yml").items()
    }
    repeated = [
        (path, name, int(given))
        for path in ROOT.glob("roles/*/[vt]*/*")
        for name, given in re.findall(
            r"\b(?:v\.)?(\w+_port)\s*\|\s*default\((\d+)\)", path.read_text()
        )
    ]
    # What roles take for the values of hosts that the inventory is silent about.
    repeated += [
        (path, name, given)
        for path in ROOT.glob("roles/*/vars/main.yml")
        for variable, taken in yaml.safe_load(path.read_text()).items()
        if variable.endswith("_inventory_defaults")
        for name, given in taken.items()
        if "{{" not in str(defaults.get(name, "{{ a host has to have it }}"))
    ]
    assert len(repeated) >= 14
    assert [(p, n, g) for p, n, g in repeated if defaults[n] != g] == []


def test_what_a_role_sets_itself_is_known_and_not_open_to_app_settings() -> None:
    template = (ROOT / "roles/app/templates/heartcode.env.j2").read_text()
    names = re.findall(r"^([A-Z_]+)=", template, re.MULTILINE)
    assert names == load("roles/app/vars/main.yml")["_app_own_settings"]
    assert set(names) <= {row.variable for row in TABLE}


@pytest.mark.parametrize(
    ("variable", "takes_a_slot"),
    [("_gateway_inference_paths", True), ("_gateway_converting_paths", False)],
)
def test_the_gateway_routes_every_request_that_the_rigs_pass_on(
    variable: str, *, takes_a_slot: bool
) -> None:
    paths = [
        path
        for endpoint in ENDPOINTS
        if (endpoint.kind is not Kind.CONVERTS) == takes_a_slot
        for path in endpoint.paths
    ]
    assert sorted(load("roles/gateway/vars/main.yml")[variable]) == sorted(paths)


@pytest.mark.parametrize("chat_ui", [False, True])
def test_no_path_of_the_api_is_a_page_s(*, chat_ui: bool) -> None:
    template = load("roles/gateway/vars/main.yml")["_gateway_page_paths"]
    pages = NativeEnvironment().from_string(template).render(gateway_chat_ui=chat_ui)
    assert re.match(pages, "/")
    paths = [path for endpoint in ENDPOINTS for path in endpoint.paths]
    paths += ["/v1/models", "/v1/models/a.js", "/models/page.json", "/props", "/slots"]
    paths += ["/health", "/livez", "/fleet"]
    assert [path for path in paths if re.match(pages, path)] == []


def test_the_example_inventory_sets_only_what_roles_know() -> None:
    known = {name for role in ROLES for name in options(role)} | {
        "ansible_host",
        "ansible_user",
        "heartcode_address",
    }
    text = (ROOT / "inventory/example.yml").read_text()
    names = set(re.findall(r"\b((?:[a-z]+_)+[a-z]+): ", text, re.MULTILINE))
    assert names - known == set()
    assert "model_name" in names


def test_no_two_services_have_one_port() -> None:
    ports = {
        name: value
        for role in ROLES
        for name, value in load(f"roles/{role}/defaults/main.yml").items()
        if name.endswith("_port") and isinstance(value, int)
    }
    assert len(set(ports.values())) == len(ports) > 8, ports
