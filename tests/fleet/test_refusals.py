"""What cannot work is refused before anything is changed, and the message says how to mend it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fleet.harness import ROOT, Fleet

pytestmark = pytest.mark.ci

CARD = "GPU-10600000-0000-4000-8000-000000000001"  # rig1's first
MODELS = "/var/lib/heartcode/models"

# What is written in the inventory, and what the play says.
Case = tuple[Mapping[str, object], *tuple[str, ...]]
# By who refuses it (a group of refusals.yml) and what is wrong.
REFUSED: Mapping[str, Mapping[str, Case]] = {
    "by_common": {
        "a CA file that is not there": (
            {"common_extra_ca_file": "/nowhere/ca.pem"},
            "Correct the path or set it to",
        ),
        "an unsupported system": (
            {},
            "rig2 runs Ubuntu",
            "HeartCode deploys to Debian 12 or 13",
        ),
    },
    "by_model": {
        "a model that is not a GGUF": (
            {"model_file": "../model.bin"},
            "give the name of a .gguf file without a path",
        ),
        "a model that is not there": (
            {"model_src": "/nowhere/model.gguf"},
            "there is no such file on the control node",
        ),
        "no model": (
            {"model_file": "", "model_src": ""},
            "rig1: there is no model: set model_name (llama-70b, lumimaid,",
        ),
        "a model that does not exist": (
            {"model_name": "sthenno", "model_file": "", "model_src": ""},
            "no model 'sthenno'; the catalogue has llama-70b, lumimaid,",
        ),
        "a quantisation that does not exist": (
            {
                "model_name": "stheno",
                "model_quantisation": "Q9",
                "model_file": "",
                "model_src": "",
            },
            "no quantisation 'Q9' of stheno; there are Q4_K_M, Q5_K_M, Q6_K",
        ),
        "a source that is no GGUF": (
            {"model_src": str(Path(__file__))},
            "is no usable GGUF: it begins with",
        ),
        "a model that the rig does not have": (
            {"model_src": "", "model_file": "absent.gguf"},
            "rig1 has no /var/lib/heartcode/models/absent.gguf. Put the file there",
        ),
        "a truncated model on a rig": (
            {"model_src": "", "model_file": "half.gguf"},
            "rig1: /var/lib/heartcode/models/half.gguf is no usable GGUF",
            "Put a whole one there",
        ),
        "no room for the model": (
            {},
            f"rig2 has 64.00 MB free for {MODELS}, and counting.gguf needs 5.07 MB,",
            "Make room there",
        ),
    },
    "by_rig": {
        "a helper that is none": (
            {"llama_server_helpers": ["rig9"]},
            "rig9 of llama_server_helpers is not in the inventory's group helpers. Put the hosts",
        ),
        "an index instead of a UUID": (
            {"llama_cpp_backend": "cuda", "llama_server_gpus": [{"uuid": "0"}]},
            "0 is not the UUID of a GPU",
        ),
        "half a UUID": (
            {"llama_server_gpus": [{"uuid": "GPU-10600000-4000"}]},
            "GPU-10600000-4000 is not the UUID of a GPU",
        ),
        "an address without quotes": (
            {"llama_server_gpus": [{"pci": 180.0}]},
            "'180.0' is no PCI address like 0000:03:00.0",
            "put it into quotes",
        ),
        "a card twice": (
            {"llama_server_gpus": [{"uuid": CARD}, {"pci_order": 0}]},
            f"({CARD} stands there twice, in entries 1 and 2): a card serves one backend",
        ),
        "a card in two groups": (
            {"llama_server_gpus": [{"gpus": [CARD]}, {"gpus": [0]}]},
            f"({CARD} stands there twice, in entries 1 and 2): a card serves one backend",
        ),
        "a group that is no list": (
            {"llama_server_gpus": [{"gpus": CARD}]},
            f"entry 1 of llama_server_gpus: gpus is '{CARD}'; give a list of cards",
        ),
        "a card that was never there": (
            {"llama_server_gpus": [{"uuid": CARD[:-1] + "9"}]},
            (
                f"there is no card {CARD[:-1]}9, which llama_server_gpus names. Not named there,"
                f" but in the rig: {CARD}"
            ),
        ),
        "a card that the driver does not list": (
            {"llama_server_gpus": []},
            "the driver does not list the card of NVIDIA at 0000:09:00.0. Check its riser",
            "llama_server_gpus_except: ['0000:09:00.0']",
        ),
        "no card left": (
            {"llama_server_gpus": [], "llama_server_gpus_except": [CARD, "02:00.0", "09:00.0"]},
            "llama_server_gpus_except leaves no card for a backend",
        ),
        "a card's number that cannot work": (
            {"llama_server_gpus": [{"uuid": CARD, "slots": 0}]},
            f"card {CARD}: slots must be at least 1, not 0",
        ),
        "layers that are neither a number nor all": (
            {"llama_cpp_backend": "cuda", "llama_server_n_gpu_layers": "auto"},
            "inventory: n_gpu_layers must be all or a whole number, not 'auto'",
        ),
        "a card below the minimum": (
            {"llama_cpp_backend": "cuda"},
            "more than the 3 MiB that can be planned for on P104-100",
            "Would fit: ",
        ),
    },
    "by_llama_server": {
        "an unknown setting of a card": (
            {"llama_server_gpus": [{"uuid": CARD, "contexts": 2}]},
            "llama_server_gpus.contexts. Supported parameters include: ",
        ),
        "a card's model with a path": (
            {"llama_server_gpus": [{"uuid": CARD, "model_file": "/models/x.gguf"}]},
            "model_file is '/models/x.gguf'; give the name of a .gguf file without a path",
        ),
        "no loading at all": (
            {"llama_server_loads_at_a_time": 0},
            (
                "llama_server_loads_at_a_time, llama_server_load_mib_s and"
                " llama_server_network_mib_s must be at least 1"
            ),
        ),
    },
    "by_gpu_driver": {
        "cards of another generation": (
            {"llama_cpp_cuda_arch": "75-real"},
            "has compute capability 6.1, expected 75",
        ),
        "a compute capability with a dot": (
            {"gpu_driver_card_compute_capabilities": {CARD: "6.1"}},
            "hold 6.1. Write a compute capability as two digits without the dot",
        ),
        "a card that the rig does not have": (
            {"gpu_driver_card_compute_capabilities": {"GPU-1": 75}},
            "names GPU-1, which llama_server_gpus does not list",
        ),
        "a driver that is not Debian's": (
            {"gpu_driver_mode": "managed"},
            "has a driver that is not Debian's proprietary one (550.163.01)",
        ),
        "an unknown mode of the driver": (
            {"gpu_driver_mode": "open"},
            "value of gpu_driver_mode must be one of: managed, present, none",
        ),
    },
    "by_app": {
        "a port in use on a rig": (
            {"app_port": 22},
            "port 22 (app_port) is in use by",
        ),
        "a setting given twice": (
            {"app_settings": {"PORT": 1}},
            "app_settings must not hold PORT",
        ),
    },
    "by_gpu_tune": {
        "a power limit that is none": (
            {"gpu_tune_power_limit_w": "low"},
            "gpu_tune_power_limit_w is 'low'; give watts, from 1 to 1000, or stock",
        ),
        "a power limit out of range": (
            {"gpu_tune_power_limit_w": 59.5},
            (
                f"rig1: a power limit of 59.5 W is out of range for {CARD},"
                " which takes 60.00 to 140.00 W"
            ),
        ),
        "a power limit out of range for a model": (
            {"gpu_tune_model_power_limits_w": {"P106-100": 300}},
            (
                f"rig1: a power limit of 300 W is out of range for {CARD},"
                " which takes 60.00 to 140.00 W"
            ),
        ),
    },
    "by_firewall": {
        "an address with a port": (
            {"firewall_monitoring_addresses": ["192.168.1.5:9090"]},
            "192.168.1.5:9090",
            "without a port",
        ),
        "a name without an address": (
            {"firewall_monitoring_addresses": ["nobody.invalid"]},
            "knows no address of nobody.invalid",
        ),
    },
    "by_llama_cpp": {
        "a hash that is none": (
            {"llama_cpp_source_sha256": "00ff"},
            "llama_cpp_source_sha256 must be 64 hexadecimal digits",
        ),
        "no version kept to go back to": (
            {"llama_cpp_keep_versions": 1},
            "keep 2 at least",
        ),
        # An option of its own each: of rigs that lack the same version only the first builds it.
        "too little disk for the build": (
            {"llama_cpp_cmake_extra_options": ["-DX=1"], "llama_cpp_build_min_disk_mib": 10**9},
            "building llama.cpp needs 1000000000. Make room there",
        ),
        "too little memory for the build": (
            {"llama_cpp_cmake_extra_options": ["-DX=2"], "llama_cpp_build_min_ram_mib": 10**9},
            "building llama.cpp needs 1000000000. Stop what uses the memory",
        ),
        "an unknown backend": (
            {"llama_cpp_backend": "rocm"},
            "value of llama_cpp_backend must be one of: cuda, cpu",
        ),
        "an architecture without kernels": (
            {"llama_cpp_backend": "cuda", "llama_cpp_cuda_arch": "52-real;61-real"},
            'llama_cpp_cuda_arch is "52-real;61-real", and 52-real is none',
        ),
        "a CUDA without Pascal": (
            {"llama_cpp_backend": "cuda", "llama_cpp_cuda_version": "13.0"},
            "CUDA 13 has dropped Pascal",
        ),
        "no compiler for CUDA beside a driver of one's own": (
            {"llama_cpp_backend": "cuda"},
            "rig1 has no nvcc; Debian's is not installed beside a driver that is not Debian's",
        ),
    },
    "for_its_source": {
        "a hash that the source does not have": (
            {"llama_cpp_source_sha256": "0" * 64},
            "restore llama_cpp_source_version and llama_cpp_source_sha256",
        ),
    },
    "by_gateway": {
        "a port in use on the gateway": (
            {"gateway_port": 22},
            "port 22 (gateway_port) is in use by",
        ),
        "less time than a rig may take": (
            {"gateway_read_timeout_s": 600},
            "gateway_read_timeout_s (600) has to be more than the 1800 s",
        ),
        "a request that no rig is asked for": (
            {"gateway_rigs_asked": 0},
            "gateway_rigs_asked (0) has to be 1 or more",
        ),
        "an address for an ACME server": (
            {
                "gateway_tls": "acme",
                "gateway_acme_email": "a@example.org",
                "gateway_tls_names": ["10.0.0.1"],
            },
            "set gateway_tls_names to the public names of this host",
        ),
    },
    "by_model_mirror": {
        "a port of the mirror in use": (
            {"model_mirror_port": 22},
            "port 22 (model_mirror_port) is in use by",
        ),
    },
    "by_alertmanager": {
        "alerts for nobody": (
            {"alertmanager_webhook_url": ""},
            "nobody is told: set alertmanager_email (to, from, smarthost) or",
        ),
        "half an e-mail": (
            {"alertmanager_email": {"to": "owner@example.org"}},
            "alertmanager_email has to; it needs to, from and smarthost",
        ),
    },
    "by_grafana": {
        "a repository that is not there": (
            {"grafana_enabled": True, "grafana_repository_url": "https://127.0.0.1:9"},
            "gateway cannot have Grafana: https://127.0.0.1:9/gpg.key: ",
        ),
    },
}
BY_GATEWAYS = {"by_gateway", "by_model_mirror", "by_alertmanager", "by_grafana"}

# What has to be done to a machine for a case, and undone. No other case may mind it: rig1 and the
# gateway as they are pass every preflight meanwhile.
STATES = {
    "an unsupported system": (
        "rig2",
        (
            "sed 's/ID=debian/ID=ubuntu/;s/Debian/Ubuntu/' /etc/os-release >/run/os-release"
            " && mount --bind /run/os-release /etc/os-release"
        ),
        "umount /etc/os-release && rm /run/os-release",
    ),
    "a truncated model on a rig": (
        "rig1",
        f"head -c 100000 {MODELS}/counting.gguf >{MODELS}/half.gguf",
        f"rm {MODELS}/half.gguf",
    ),
    "no room for the model": (
        "rig2",
        f"mount -t tmpfs -o size=64m tmpfs {MODELS}",
        f"umount {MODELS}",
    ),
    "a card that the driver does not list": (
        "rig1",
        "cp -r /etc/simulated-pci/0000:01:00.0 /etc/simulated-pci/0000:09:00.0",
        "rm -r /etc/simulated-pci/0000:09:00.0",
    ),
    "a card below the minimum": (
        "rig2",
        "simulated-cards set 0 memory_total_mib=4 memory_reserved_mib=0",
        "simulated-cards set 0 memory_total_mib=8192 memory_reserved_mib=76",
    ),
}


def machine(group: str, what: str) -> str:
    return STATES[what][0] if what in STATES else "gateway" if group in BY_GATEWAYS else "rig1"


def inventory(fleet: Fleet) -> dict[str, Any]:
    """A host for each case: a machine of the fleet with its variables and those of the case."""
    hosts: dict[str, dict[str, object]] = {}
    groups: dict[str, list[str]] = {f"refused_{group}": [] for group in REFUSED}
    groups |= {f"on_{name}": [] for name in fleet.addresses}
    for group, cases in REFUSED.items():
        for what, (variables, *_) in cases.items():
            of = machine(group, what)
            file = ROOT / f"inventory/virtual/host_vars/{of}.yml"
            own = yaml.safe_load(file.read_text()) if file.exists() else {}
            hosts[name(group, what)] = {
                "ansible_host": of,
                "fleet_machine": of,
                # The group's default is relative to the inventory.
                "fleet_dir": str(fleet.directory),
                **own,
                **variables,
            }
            groups[f"refused_{group}"].append(name(group, what))
            groups[f"on_{of}"].append(name(group, what))
    members = {group: {"hosts": dict.fromkeys(names)} for group, names in groups.items()}
    return {"all": {"children": {"virtual": {"hosts": hosts}, **members}}}


def name(group: str, what: str) -> str:
    """The case's host; messages name it."""
    return machine(group, what) + "-is-" + re.sub(r"\W+", "-", what)


def messages(result: Mapping[str, Any]) -> str:
    """What a failed task says, on one line; of a loop each of its turns that failed."""
    failed = [result, *(turn for turn in result.get("results", []) if turn.get("failed"))]
    return " ".join(" ".join(one.get("msg", "") for one in failed).split())


@pytest.fixture(scope="module")
def told(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """By host, what the task said that failed there."""
    cases = tmp_path_factory.mktemp("cases") / "cases.yml"
    cases.write_text(json.dumps(inventory(fleet)))
    before = fleet.starts()
    with ExitStack() as undo, pytest.MonkeyPatch.context() as patch:
        for host, do, undone in STATES.values():
            fleet.ssh(host, do)
            undo.callback(fleet.ssh, host, undone)
        patch.setenv("ANSIBLE_STDOUT_CALLBACK", "ansible.posix.json")
        # More at a time than ssh takes over one connection would make connections of their own.
        done = fleet.playbook(
            *("--inventory", str(cases), "--forks", "8"), playbook="tests/fleet/refusals.yml"
        )
    run = json.loads(done.stdout)
    assert not any(host["changed"] for host in run["stats"].values()), done.stdout
    yield {
        host: messages(result)
        for play in run["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
        if result.get("failed") or result.get("unreachable")
    }
    assert fleet.started_again(before) == set()


@pytest.mark.parametrize(
    ("group", "what"), [(group, what) for group, cases in REFUSED.items() for what in cases]
)
def test_what_cannot_work_is_refused(told: Mapping[str, str], group: str, what: str) -> None:
    host = name(group, what)
    assert host in told, "the preflight has passed, or the play did not come so far"
    text = told[host].replace(host, machine(group, what))
    _, *expected = REFUSED[group][what]
    assert [message for message in expected if message not in text] == [], text


@pytest.mark.parametrize("host", ["rig1", "gateway"])
def test_a_host_as_it_is_passes(told: Mapping[str, str], host: str) -> None:
    assert host not in told, told[host]
