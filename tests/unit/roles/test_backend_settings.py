"""What the roles llama_server and app write for a rig whose cards differ, rendered by Ansible."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from heartcode_models.planner.description import parse_rig
from heartcode_models.planner.host_ram import LlamaServer, server_ram
from heartcode_models.planner.known_models import known_model
from heartcode_models.planner.rig_plan import plan_rig
from heartcode_models.planner.settings import HandSet, Settings
from heartcode_models.units import mib

ROOT = Path(__file__).parents[3]
MIB = 2**20
SMALL, LARGE = "Stheno-Q4_K_M.gguf", "Stheno-Q6_K.gguf"
CARDS: list[dict[str, Any]] = [
    {"uuid": "GPU-00000000-0000-0000-0000-000000000001"},
    {"uuid": "GPU-00000000-0000-0000-0000-000000000002", "model_file": LARGE, "load_mib_s": 100},
]
SIX = [{"uuid": f"GPU-00000000-0000-0000-0000-00000000000{n}"} for n in range(6)]
#: As the role rig notes it where the planner did not know the model.
PLAIN: dict[str, Any] = {
    "model_file": SMALL,
    "n_ctx": 4096,
    "slots": 1,
    "kv_type": "q8_0",
    "n_batch": 512,
    "n_ubatch": 512,
    "n_gpu_layers": "all",
    "n_threads": 1,
    "load_mode": "none",
}


def backends(cards: list[dict[str, Any]], **of_all: Any) -> dict[str, Any]:
    """rig_backends; a name is the file's unless it is set."""
    merged = [PLAIN | of_all | card for card in cards]
    return {
        "rig_backends": [
            {"model_name": one["model_file"].removesuffix(".gguf")} | one for one in merged
        ]
    }


HOSTS: dict[str, dict[str, Any]] = {
    "mixed": {},
    "named": backends(CARDS, model_name="stheno"),
    "both": backends([CARDS[0], CARDS[1] | {"model_name": "stheno-large"}], model_name="stheno"),
    "two_at_a_time": {"llama_server_loads_at_a_time": 2},
    "small": {"ram_mib": 3950} | backends(SIX),
    "roomy": {"ram_mib": 15564} | backends(SIX),
    "cpu": {"ram_mib": 3950} | backends(SIX, n_gpu_layers=0),
    "cache_by_hand": {"ram_mib": 15564} | backends(SIX, cache_ram_mib=100),
}
GROUP: dict[str, Any] = {
    "uuid": "+".join(card["uuid"] for card in (*CARDS, SIX[5])),
    "tensor_split": [12, 11, 10],
}
HOSTS["grouped"] = backends([CARDS[0] | GROUP, SIX[4]])
HELPERS: list[dict[str, Any]] = [
    {"name": "rig2", "endpoint": "192.168.1.22:50052", "cards": 2},
    {"name": "rig3", "endpoint": "192.168.1.23:50052", "cards": 1},
]
LED: dict[str, Any] = {
    "uuid": "GPU-a@rig2+GPU-b@rig2+GPU-c@rig3+" + "+".join(card["uuid"] for card in CARDS),
    "tensor_split": [8, 8, 8, 5, 4],
    "helpers": HELPERS,
}
HOSTS["led"] = backends([LED])
HOSTS["led_cpu"] = {"llama_cpp_backend": "cpu"} | backends(
    [{"uuid": "cpu@rig2+cpu@rig3+cpu", "tensor_split": [16, 17], "helpers": HELPERS}]
)
HOSTS["by_hand"] = HOSTS["small"] | {"llama_server_memory_max_mib": 900}

Files = dict[str, dict[str, str]]


def write_role(role: Path) -> None:
    """Write a role with llama_server's variables that does nothing but render.

    It renders with lookups, which work in Ansible's own process: the module would start programs
    for each file. All files of all hosts are written as one.
    """
    role.mkdir(parents=True)
    for part in ("defaults", "vars"):
        (role / part).symlink_to(ROOT / "roles/llama_server" / part)

    def noted(name: str, template: str) -> dict[str, Any]:
        rendered = f"lookup('ansible.builtin.template', '{ROOT}/roles/{template}.j2')"
        added = "{%s: %s}" % (name, rendered)  # noqa: UP031
        return {"files": f"{{{{ files | default({{}}) | combine({added}) }}}}"}

    facts = {"rig_facts": {"ram_mib": "{{ ram_mib | int }}"}}
    per_card = {"loop": "{{ rig_backends }}", "loop_control": {"index_var": "index"}}
    tasks: list[dict[str, Any]] = [
        {"ansible.builtin.set_fact": facts},
        {"ansible.builtin.set_fact": noted("index ~ '.env'", "llama_server/templates/backend.env")}
        | per_card,
        {"ansible.builtin.set_fact": noted("index ~ '.conf'", "llama_server/templates/limits.conf")}
        | per_card,
        {
            "ansible.builtin.set_fact": noted(
                "'helpers.conf'", "llama_server/templates/helpers.conf"
            )
        },
        {
            "ansible.builtin.set_fact": noted("'heartcode.env'", "app/templates/heartcode.env"),
            "vars": {
                "llama_server_token_bytes": "{{ _llama_server_token_bytes }}",
            },
        },
        {
            "ansible.builtin.copy": {
                "content": "{{ dict(ansible_play_hosts | zip(ansible_play_hosts"
                " | map('extract', hostvars, 'files'))) | to_json }}",
                "dest": "{{ playbook_dir }}/rendered.json",
                "mode": "0644",
            },
            "run_once": True,
        },
    ]
    (role / "tasks").mkdir()
    (role / "tasks/main.yml").write_text(yaml.safe_dump(tasks))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """For each host the variables of each of its files."""
    directory = tmp_path_factory.mktemp("rendered")
    write_role(directory / "roles/backends")
    (directory / "systemd").symlink_to(ROOT / "systemd")
    shapes = [
        {"item": name, "stdout": json.dumps(known_model("8B", quantisation).as_data())}
        for name, quantisation in ((SMALL, "Q4_K_M"), (LARGE, "Q6_K"))
    ]
    stats = [
        {"item": name, "stat": {"exists": True, "size": size * MIB, "mtime": 0}}
        for name, size in ((SMALL, 4700), (LARGE, 6300))
    ]
    alike = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "ram_mib": 8000,
        **backends(CARDS),
        "__llama_server_models": {"results": stats},
        "__llama_server_shapes": {"results": shapes},
        # The second is no file of which it can be told.
        "__llama_server_tokens": {
            "results": [{"item": SMALL, "stdout": "114"}, {"item": LARGE, "stdout": ""}]
        },
        "app_port": 8080,
        "app_metrics_port": 9091,
        "app_settings": {},
    }
    inventory = {"all": {"hosts": HOSTS, "vars": alike}}
    (directory / "inventory.yml").write_text(yaml.safe_dump(inventory))
    play = [{"hosts": "all", "gather_facts": False, "roles": ["backends"]}]
    (directory / "play.yml").write_text(yaml.safe_dump(play))
    done = subprocess.run(
        ["ansible-playbook", "-i", directory / "inventory.yml", directory / "play.yml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    files: dict[str, dict[str, str]] = json.loads((directory / "rendered.json").read_text())
    return {
        host: {
            name: dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
            for name, text in of_host.items()
        }
        for host, of_host in files.items()
    }


def needed_mib(quantisation: str) -> int:
    """MiB of host RAM beside cached prompts, with the role's defaults."""
    model = known_model("8B", quantisation)
    settings = Settings(
        n_ctx=4096, slots=1, kv_type="q8_0", n_batch=512, n_ubatch=512, n_gpu_layers=33
    )
    return mib(server_ram(LlamaServer(model, settings), "none"))


def test_each_card_has_its_file_and_its_limits(rendered: dict[str, Files]) -> None:
    files = rendered["mixed"]
    first, second = files["0.env"], files["1.env"]
    assert first["MODEL_PATH"] == f"/var/lib/heartcode/models/.kept/0.{SMALL}"
    assert second["MODEL_PATH"] == f"/var/lib/heartcode/models/.kept/0.{LARGE}"
    assert second["CUDA_VISIBLE_DEVICES"] == second["HEARTCODE_GPU_UUID"] == CARDS[1]["uuid"]
    # Each file is another model, as nobody has named them.
    assert files["heartcode.env"]["HEARTCODE_MODEL"] == "Stheno-Q4_K_M,Stheno-Q6_K"
    assert files["heartcode.env"]["HEARTCODE_TOKEN_BYTES"] == "114,0"  # noqa: S105
    # 300 s and the file: 4700 MiB at 25 MiB/s, 6300 at 100.
    assert first["HEARTCODE_LOAD_TIMEOUT_S"] == "488"
    assert second["HEARTCODE_LOAD_TIMEOUT_S"] == "363"
    for name in ("0.conf", "1.conf"):
        assert files[name]["TimeoutStartSec"] == str(120 + 488 + 363 + 488)
    # What the planner says that each needs, with its prompt cache and a reserve.
    for number, quantisation in enumerate(("Q4_K_M", "Q6_K")):
        cache = int(files[f"{number}.env"]["HEARTCODE_CACHE_RAM_MIB"])
        need = needed_mib(quantisation) + cache
        assert files[f"{number}.conf"]["MemoryMax"] == f"{need + need // 4 + 256}M"
    assert first["N_GPU_LAYERS"] == second["N_GPU_LAYERS"] == "all"
    assert files["0.conf"]["StartLimitIntervalSec"] == str(6 * (488 + 120))
    assert files["1.conf"]["StartLimitIntervalSec"] == "3600"


@pytest.mark.parametrize(
    ("host", "names", "of_proxy"),
    [
        ("named", ["stheno", "stheno"], "stheno"),
        ("both", ["stheno", "stheno-large"], "stheno,stheno-large"),
    ],
)
def test_a_name_that_is_set_is_that_of_all_files_but_a_card_s_own(
    rendered: dict[str, Files], host: str, names: list[str], of_proxy: str
) -> None:
    files = rendered[host]
    assert [files[f"{n}.env"]["HEARTCODE_MODEL"] for n in (0, 1)] == names
    assert files["heartcode.env"]["HEARTCODE_MODEL"] == of_proxy


@pytest.mark.parametrize(
    ("host", "limit"),
    [
        # The share would be 487 MiB; needed are 282 for embeddings, 115 for libraries, 65 for the
        # process, 21 for what goes to and from the card, 357 for CUDA, and a reserve.
        ("small", 840 + 210 + 256),
        # The whole file: all of the host but a rest.
        ("cpu", 3950 - 512),
        ("by_hand", 900),
    ],
)
def test_a_small_host_s_memory(rendered: dict[str, Files], host: str, limit: int) -> None:
    assert {rendered[host][f"{n}.conf"]["MemoryMax"] for n in range(6)} == {f"{limit}M"}


def test_prompts_get_what_the_planner_says(rendered: dict[str, Files]) -> None:
    def caches(host: str) -> set[str]:
        return {rendered[host][f"{n}.env"]["HEARTCODE_CACHE_RAM_MIB"] for n in range(6)}

    made = plan_rig(
        parse_rig("P106-100 x 6, 16 GB RAM"),
        [known_model("8B", "Q4_K_M")],
        HandSet(n_ctx=4096, slots=1, load_mode="none"),
    )
    assert made.servers[0].cache_ram_mib > 1000
    assert caches("roomy") == {str(made.servers[0].cache_ram_mib)}
    assert caches("small") == {"0"}
    assert caches("cache_by_hand") == {"100"}


def test_loads_at_a_time_shorten_the_wait(rendered: dict[str, Files]) -> None:
    files = rendered["two_at_a_time"]
    assert files["0.env"]["HEARTCODE_LOADS_AT_A_TIME"] == "2"
    assert files["0.conf"]["TimeoutStartSec"] == str(120 + (488 + 363) // 2 + 488)


def test_a_group_has_its_cards_in_their_order_and_what_they_take(
    rendered: dict[str, Files],
) -> None:
    files = rendered["grouped"]
    group, alone = files["0.env"], files["1.env"]
    uuids = GROUP["uuid"].split("+")
    assert group["HEARTCODE_GPU_UUID"] == "+".join(uuids)
    assert group["CUDA_VISIBLE_DEVICES"] == ",".join(uuids)
    assert group["HEARTCODE_TENSOR_SPLIT"] == "12,11,10"
    assert "HEARTCODE_TENSOR_SPLIT" not in alone
    assert files["heartcode.env"]["HEARTCODE_GPU_UUIDS"] == f"{GROUP['uuid']},{SIX[4]['uuid']}"
    # CUDA's part of the host's RAM for each card.
    alone_mib, group_mib = (int(files[f"{n}.conf"]["MemoryMax"][:-1]) for n in (1, 0))
    assert group_mib > alone_mib + 2 * 357
    assert int(group["HEARTCODE_LOAD_TIMEOUT_S"]) == int(alone["HEARTCODE_LOAD_TIMEOUT_S"]) + 120


def test_a_rig_with_helpers_is_told_of_their_cards_and_reaches_them(
    rendered: dict[str, Files],
) -> None:
    files = rendered["led"]
    settings = files["0.env"]
    assert settings["HEARTCODE_GPU_UUID"] == LED["uuid"]
    assert settings["CUDA_VISIBLE_DEVICES"] == ",".join(card["uuid"] for card in CARDS)
    assert settings["HEARTCODE_TENSOR_SPLIT"] == "8,8,8,5,4"
    helpers = "rig2=192.168.1.22:50052/2 rig3=192.168.1.23:50052/1"
    assert settings["HEARTCODE_RPC"] == f'"{helpers}"'
    assert files["heartcode.env"]["HEARTCODE_GPU_UUIDS"] == LED["uuid"]
    # 300 s, a minute for each further card, the file, and 24 of 33 layers over 110 MiB/s.
    assert settings["HEARTCODE_LOAD_TIMEOUT_S"] == str(300 + 4 * 60 + 188 + 32)
    # The last of the two lines that are alike.
    assert files["0.conf"]["IPAddressAllow"] == "192.168.1.23"
    assert files["helpers.conf"]["IPAddressAllow"] == "192.168.1.23"
    assert files["helpers.conf"]["PrivateNetwork"] == "no"
    assert "CUDA_VISIBLE_DEVICES" not in rendered["led_cpu"]["0.env"]
    assert rendered["led_cpu"]["0.env"]["HEARTCODE_TENSOR_SPLIT"] == "16,17"


def test_a_rig_without_helpers_reaches_nobody(rendered: dict[str, Files]) -> None:
    assert "IPAddressAllow" not in rendered["grouped"]["0.conf"]


def test_a_single_card_s_settings_say_nothing_of_groups(rendered: dict[str, Files]) -> None:
    assert set(rendered["mixed"]["0.env"]) == {
        *("MODEL_PATH", "N_GPU_LAYERS", "N_CTX", "N_BATCH", "N_THREADS", "PORT", "HEARTCODE_MODEL"),
        *("HEARTCODE_UBATCH", "HEARTCODE_SLOTS", "HEARTCODE_CACHE_RAM_MIB", "HEARTCODE_LOAD_MODE"),
        *("HEARTCODE_KV_TYPE", "HEARTCODE_FLASH_ATTENTION", "HEARTCODE_EXTRA_ARGS"),
        *("HEARTCODE_LOADS_AT_A_TIME", "HEARTCODE_LOAD_TIMEOUT_S"),
        *("HEARTCODE_GPU_UUID", "CUDA_VISIBLE_DEVICES"),
    }
