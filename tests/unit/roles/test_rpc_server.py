"""What the role rpc_server says before a deployment, and writes, in one run for all helpers.

The programs that it asks are scripts here, which answer for the host that they are asked on.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.unit.roles.playing import play_on_all

ROOT = Path(__file__).parents[3]
ONE, TWO, THREE = (f"GPU-10600000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
HERE, LEADER = "192.168.1.22", "192.168.1.21"
#: From where the leader comes.
CALLER = "10.0.0.21"
#: In the order of the fields that the role rig asks for.
CARDS = "".join(
    f"{uuid}, NVIDIA P106-100, 6144, 145, 1, 1, 00000000:0{bus}:00.0, 6.1\n"
    for bus, uuid in enumerate((ONE, TWO, THREE), 1)
)


class Case(NamedTuple):
    """A helper, what its leader says of it, and a part of what is said; "" where it passes."""

    says: str = ""
    helper: Mapping[str, Any] = {}
    leaders: int = 1
    version: str = "v1"
    cards: str = CARDS
    is_rig: bool = False


CASES = {
    "three cards": Case(),
    "a card is left out": Case(helper={"llama_server_gpus_except": [TWO]}),
    "a CPU": Case(helper={"llama_cpp_backend": "cpu"}, cards=""),
    "values of its own": Case(
        helper={
            "rpc_server_base_port": 50100,
            "rpc_server_n_threads": 2,
            "rpc_server_memory_max_mib": 3000,
        }
    ),
    "a name": Case(helper={"heartcode_address": "helper.lan"}),
    "a network of their own": Case(
        helper={"heartcode_address": "nowhere.lan", "rpc_server_address": HERE}
    ),
    "a rig as well": Case("is in the groups rigs and helpers", is_rig=True),
    "no leader": Case("no rig has it in its llama_server_helpers", leaders=0),
    "two leaders": Case("and a helper's cards serve one rig", leaders=2),
    "an address of another": Case(
        "192.168.1.99 is none of them. Set its heartcode_address",
        {"heartcode_address": "192.168.1.99"},
    ),
    "a name without an address": Case(
        "nowhere.lan has no IPv4 address to its leader", {"heartcode_address": "nowhere.lan"}
    ),
    "no cards": Case("there is no card of NVIDIA on the PCI bus", cards=""),
    "no card left": Case(
        "leaves no card for a backend", {"llama_server_gpus_except": [ONE, TWO, THREE]}
    ),
    "a card that is no card": Case("'first' is no PCI", {"llama_server_gpus_except": ["first"]}),
    "a card with settings": Case(
        "llama_server_gpus sets slots beside one",
        {"llama_server_gpus": [{"uuid": ONE, "slots": 2}, {"pci_order": 1}]},
    ),
    "a port that is none": Case("must be 1 to 65535", {"rpc_server_base_port": 70000}),
    "a port of another's": Case(
        "port 9300 (rpc_server_base_port) is in use by users:", {"rpc_server_base_port": 9300}
    ),
    "a port of the exporter's": Case(
        "9091 is app_metrics_port's or node_exporter_port's", {"rpc_server_base_port": 9091}
    ),
    "a port of the node exporter's": Case(
        "9200 is app_metrics_port's or node_exporter_port's",
        {"rpc_server_base_port": 9200, "node_exporter_port": 9200},
    ),
    "another build": Case("would have llama.cpp v2 and its leader", version="v2"),
}
PROGRAMS = {
    # Of what is asked it knows two names, and addresses as they are.
    "getent": """
        case $2 in
        helper.lan) echo "192.168.1.22 STREAM $2" ;;
        [0-9]*) echo "$2 STREAM $2" ;;
        *) exit 2 ;;
        esac
    """,
    # The leader has another network too, by which it is known.
    "ip": r"""
        case "$*" in
        *"route get"*) echo "${!#} dev eth1 src 10.0.0.21 uid 0 \ cache" ;;
        *) echo '2: eth0    inet 192.168.1.22/24 brd 192.168.1.255 scope global eth0\ ' ;;
        esac
    """,
    "nvidia-smi": 'cat "$CARDS"; [ -s "$CARDS" ]',
}
LISTENS = 'LISTEN 0 9 *:9300 *:* users:(("x",pid=7,fd=3)) cgroup:/system.slice/x.service'


#: Whom the role firewall takes for a helper's leader, after these checks.
FIREWALL = yaml.safe_load((ROOT / "roles/firewall/vars/main.yml").read_text())["_firewall_leaders"]


class Outcome(NamedTuple):
    failed: Mapping[str, str]
    facts: Mapping[str, Any]
    firewall: Mapping[str, list[str]]
    settings: Mapping[str, list[str]]
    limits: Mapping[str, list[str]]


def inventory(directory: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Hosts by group, and each case's helper."""
    rigs: dict[str, Any] = {}
    helpers: dict[str, Any] = {}
    for number, case in enumerate(CASES.values()):
        name = f"helper{number}"
        for leader in range(case.leaders):
            rigs[f"leader{number}-{leader}"] = {
                "heartcode_address": LEADER,
                "llama_server_helpers": [name],
                "__llama_cpp_version": "v1",
                "rig_cuda_arch": "61-real",
            }
        if case.is_rig:
            rigs[name] = {}
        (directory / name).write_text(case.cards)
        helpers[name] = {
            "heartcode_address": HERE,
            "__llama_cpp_version": case.version,
            "llama_cpp_current_version": case.version,
            "gpu_driver_mode": "none" if case.helper.get("llama_cpp_backend") else "managed",
            "rig_pci_directory": str(directory / "no-bus"),
            **case.helper,
        }
    known = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "__common_host": {
            "answers": {"listeners": {"stdout_lines": [LISTENS]}, "sockets": {"stdout_lines": []}}
        },
    }
    groups = {"rigs": {"hosts": rigs}, "helpers": {"hosts": helpers}}
    return {"all": {"children": groups, "vars": known}}, dict(zip(CASES, helpers, strict=True))


def play(directory: Path) -> dict[str, Any]:
    facts = {"memtotal_mb": 3900, "processor_vcpus": 8, "systemd": {"version": 257}}
    role = {"name": "rpc_server"}
    templates = ROOT / "roles/rpc_server/templates"
    rendered = {
        name: f"{{{{ lookup('ansible.builtin.template', '{templates}/{name}') }}}}"
        for name in ("rpc.env.j2", "lent.conf.j2")
    }
    return {
        "hosts": "helpers",
        "gather_facts": False,
        "environment": {"CARDS": f"{directory}/{{{{ inventory_hostname }}}}"},
        "tasks": [
            {"ansible.builtin.set_fact": {**facts, "cacheable": True}},
            *(
                {"ansible.builtin.import_role": {**role, "tasks_from": part}}
                for part in ("preflight", "follow", "agree")
            ),
            {
                "name": "Render",
                "ansible.builtin.debug": {
                    "msg": {"rpc_server": "{{ rpc_server }}", "firewall": FIREWALL, **rendered}
                },
                "vars": {"role_path": str(ROOT / "roles/rpc_server")},
            },
        ],
    }


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    directory = tmp_path_factory.mktemp("helpers")
    programs = directory / "programs"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    hosts, names = inventory(directory)
    path = f"{programs}:{os.environ['PATH']}"
    tasks = play_on_all(directory, hosts, play(directory), PATH=path)
    failed = {
        host: str(result["msg"])
        for task in tasks
        for host, result in task["hosts"].items()
        if result.get("failed")
    }
    told = {host: result["msg"] for host, result in tasks[-1]["hosts"].items()}
    passed = {what: told[host] for what, host in names.items() if host in told}
    return Outcome(
        {what: failed[host] for what, host in names.items() if host in failed},
        {what: said["rpc_server"] for what, said in passed.items()},
        {what: said["firewall"] for what, said in passed.items()},
        {what: lines(said["rpc.env.j2"]) for what, said in passed.items()},
        {what: lines(said["lent.conf.j2"]) for what, said in passed.items()},
    )


@pytest.mark.parametrize("what", CASES)
def test_what_cannot_be_lent_is_refused_in_a_line_and_nothing_else(
    outcome: Outcome, what: str
) -> None:
    said = outcome.failed.get(what, "")
    assert CASES[what].says in said
    assert bool(CASES[what].says) == bool(said), said
    assert "\n" not in said.strip()
    assert (what in outcome.facts) == (not said)


def test_its_leader_is_told_what_is_lent_and_where(outcome: Outcome) -> None:
    fact = outcome.facts["three cards"]
    assert fact["name"] == "helper0"
    assert fact["gpus"] == [{"uuid": ONE}, {"uuid": TWO}, {"uuid": THREE}]
    assert fact["nvidia_smi"] == CARDS.splitlines()
    assert {key: fact[key] for key in ("address", "port", "backend", "cores", "ram_mib")} == {
        "address": HERE,
        "port": 50052,
        "backend": "cuda",
        "cores": 8,
        "ram_mib": 3900,
    }
    assert fact["bus"] == []
    assert fact["callers"] == [CALLER, LEADER]
    assert outcome.facts["a card is left out"]["gpus"] == [{"uuid": ONE}, {"uuid": THREE}]
    assert outcome.facts["a name"]["address"] == HERE
    assert outcome.facts["a network of their own"]["address"] == HERE
    cpu = outcome.facts["a CPU"]
    assert (cpu["gpus"], cpu["backend"]) == ([{"uuid": "cpu"}], "cpu")


def test_its_unit_has_all_of_its_cards_by_name(outcome: Outcome) -> None:
    assert outcome.settings["three cards"] == [
        f"HEARTCODE_RPC_HOST={HERE}",
        "HEARTCODE_RPC_PORT=50052",
        "HEARTCODE_RPC_SERVER=/opt/heartcode/llama.cpp/v1/bin/ggml-rpc-server",
        "N_THREADS=4",
        f"HEARTCODE_GPU_UUID={ONE}+{TWO}+{THREE}",
        f"CUDA_VISIBLE_DEVICES={ONE},{TWO},{THREE}",
    ]
    cpu = outcome.settings["a CPU"]
    assert "HEARTCODE_GPU_UUID=cpu" in cpu
    assert "CUDA_VISIBLE_DEVICES" not in " ".join(cpu)
    assert "N_THREADS=2" in outcome.settings["values of its own"]
    assert "HEARTCODE_RPC_PORT=50100" in outcome.settings["values of its own"]


def test_its_leader_alone_is_let_in(outcome: Outcome) -> None:
    assert outcome.limits["three cards"] == [
        "[Service]",
        f"IPAddressAllow={CALLER}",
        f"IPAddressAllow={LEADER}",
        "MemoryMax=85%",
    ]
    assert outcome.limits["values of its own"][-1] == "MemoryMax=3000M"
    assert set(outcome.firewall["three cards"]) == {CALLER, LEADER}
