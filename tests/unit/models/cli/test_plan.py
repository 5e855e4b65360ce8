"""The command as people run it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[4] / "scripts/plan.py"


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        check=False,
        timeout=60,
    )


def test_the_requirement_s_description_prints_a_table_with_reasons() -> None:
    done = run("P106-100 × 6, 4 GB RAM")
    assert (done.returncode, done.stderr) == (0, "")
    head, row = done.stdout.splitlines()[:2]
    assert head.split()[:4] == ["RIG", "CARDS", "MODEL", "CONTEXT"]
    assert row.startswith("rig1  6 x P106-100  Q4_K_M  1 x 16384")
    for choice in ("quantisation", "n_ctx", "slots", "kv_type", "cache_ram_mib", "n_threads"):
        assert f"\n  {choice} " in done.stdout


def test_a_fleet_is_one_table() -> None:
    done = run("P106-100 x 6, 4 GB RAM", "big: P104-100 x 2, 8 GB RAM")
    rows = done.stdout.split("\n\n")[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["rig1", "big"]


def test_json_has_every_number() -> None:
    done = run("P106-100 x 2, 4 GB RAM", "--json", "--model", "8B Q4_K_M")
    (plan,) = json.loads(done.stdout)
    assert plan["works"] is True
    assert len(plan["cards"]) == 2
    card = plan["cards"][0]
    assert card["n_ctx"] == 9216
    parts = ("weights", "kv", "compute", "pool", "runtime")
    total = sum(card["vram_mib"][part] for part in parts)
    assert card["vram_mib"]["total"] <= total <= card["vram_mib"]["total"] + len(parts)
    assert card["vram_mib"]["total"] <= card["vram_mib"]["usable"]


def test_inventory_variables_are_yaml_that_the_role_knows() -> None:
    done = run("rig1: P106-100 x 2, 8 GB RAM", "--inventory")
    variables = yaml.safe_load(done.stdout)["rig1"]
    specs = yaml.safe_load(
        (SCRIPT.parents[1] / "roles/llama_server/meta/argument_specs.yml").read_text()
    )["argument_specs"]["main"]["options"]
    assert set(variables) <= set(specs)
    assert len(variables["llama_server_gpus"]) == 2
    for gpu in variables["llama_server_gpus"]:
        assert set(gpu) <= set(specs["llama_server_gpus"]["options"])


def test_what_does_not_fit_is_a_table_and_status_3() -> None:
    done = run("card 4 GB, 4 GB RAM")
    assert done.returncode == 3
    assert "nothing fits" in done.stdout
    assert "would fit: " in done.stdout


def test_a_value_by_hand_is_kept_or_refused() -> None:
    kept = run("P106-100, 4 GB RAM", "--n-ctx", "6144", "--json")
    assert json.loads(kept.stdout)[0]["cards"][0]["n_ctx"] == 6144
    refused = run("P106-100, 4 GB RAM", "--n-ctx", "16384", "--slots", "4")
    assert refused.returncode == 3
    assert "MiB more than" in refused.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "describe a rig"),
        (["six old cards"], 1, "For example"),
        (["P106-100", "--model", "no-such.gguf"], 1, "no file, no URL"),
        (["P106-100", "--kv-type", "q5_1"], 2, "invalid choice"),
        (["P106-100", "--slots", "none"], 1, "slots must be a whole number"),
        (["--facts", "-"], 1, "cannot be read"),
    ],
)
def test_wrong_usage_says_what_is_right(arguments: list[str], status: int, message: str) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_model_larger_than_a_card_is_planned_over_groups() -> None:
    done = run("P106-100 x 6, 8 GB RAM, 2 cores", "--model", "24B")
    assert (done.returncode, done.stderr) == (0, "")
    assert "rig1  2 x 3 P106-100  Q4_K_M" in done.stdout
    assert "--tensor-split 14,14,13" in done.stdout
    refused = run("P106-100 x 2, 8 GB RAM", "--model", "24B")
    assert refused.returncode == 3
    assert "a group of 3 P106-100" in refused.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--groups", "0+1,1"], 1, "card 1 stands twice in groups 0 and 1"),
        (["--groups", "3", "--model", "24B"], 1, "rig1 has 2; give 1 to 2"),
        (
            ["--groups", "2", "--model", "30B-A3B Q4_K_M", "--n-cpu-moe", "all", "--inventory"],
            1,
            "no variables for n_cpu_moe",
        ),
        (["--groups", "2", "--groupings"], 2, "leave --groups and --inventory out"),
        (["--groups", "2", "--facts", "-"], 2, "leave --facts out"),
        (["--groupings", "--slots", "64"], 1, "none of the models that are known here fits"),
        (["--n-cpu-moe", "all"], 1, "Llama-3.1-8B is none"),
    ],
)
def test_groups_that_cannot_be_are_told_in_a_line(
    arguments: list[str], status: int, message: str
) -> None:
    done = run("P106-100 x 2, 8 GB RAM", *arguments)
    assert done.returncode == status
    assert message in done.stderr.splitlines()[-1]
    assert done.stdout == ""


def test_facts_of_a_playbook_are_taken_from_stdin() -> None:
    facts = [
        {
            "name": "rig1",
            "nvidia_smi": ["GPU-aa, P106-100, 5999, 0, 1, 16, 00000000:01:00.0, 6.1"],
            "ram_mib": 3891,
            "cores": 2,
        },
        {"name": "rig2"},
    ]
    done = run("--facts", "-", stdin=json.dumps(facts))
    assert done.returncode == 3
    assert "rig1  1 x P106-100" in done.stdout
    assert "rig2: it did not answer" in done.stderr


def test_built_in_models_need_nothing_but_python() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-E", SCRIPT, "P106-100 x 6, 4 GB RAM"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- over rigs ---------------------------------------------------------------------------------

SIX = "P106-100 x 6, 8 GB RAM, 2 cores"


def test_a_model_that_outgrows_a_rig_is_planned_with_its_helpers() -> None:
    assert run(SIX, "--model", "llama-70b").returncode == 3
    done = run(SIX, "--model", "llama-70b", "--helper", f"rig2: {SIX}", "--network", "2.5Gbit")
    assert (done.returncode, done.stderr) == (0, "")
    row = done.stdout.splitlines()[1]
    assert row.startswith("rig1  1 x (6 P106-100 of rig2 + 6 P106-100)  Q4_K_M  ")
    assert row.split()[-1] == "4"
    lines = done.stdout.splitlines()
    assert sum(line.split()[:2] == ["rig2", "P106-100"] for line in lines) == 6
    assert sum(line.split()[:2] == ["rig1", "P106-100"] for line in lines) == 6
    assert "over a network of 275 MiB/s the helpers get " in done.stdout


def test_scripts_get_hosts_too_and_the_inventory_its_helpers() -> None:
    helpers = ("--helper", "P106-100 x 3, 8 GB RAM", "--helper", "box: P106-100 x 3, 8 GB RAM")
    done = run(SIX, *helpers, "--model", "llama-70b", "--json")
    (plan,) = json.loads(done.stdout)
    hosts = [share.get("host") for share in plan["cards"][0]["shares"]]
    assert hosts == ["helper1"] * 3 + ["box"] * 3 + [None] * 6
    done = run(SIX, *helpers, "--model", "llama-70b", "--inventory")
    variables = yaml.safe_load(done.stdout)["rig1"]
    assert variables["llama_server_helpers"] == ["helper1", "box"]
    (backend,) = variables["llama_server_gpus"]
    assert len(backend["gpus"]) == 6, "those of others are not named here"
    assert "llama_server_network_mib_s" not in variables
    done = run(SIX, *helpers, "--model", "llama-70b", "--network", "2.5Gbit", "--inventory")
    assert yaml.safe_load(done.stdout)["rig1"]["llama_server_network_mib_s"] == 275


def test_a_card_that_has_one_layer_is_said_to_have_that_one() -> None:
    rig = "P106-100 x 6, 4 GB RAM"
    done = run(rig, "--model", "24B", "--helper", rig)
    layers = [line.split()[2] for line in done.stdout.splitlines() if " 325 " in line]
    assert layers == [*(f"{n}-{n + 3}" for n in range(0, 36, 4)), "36-38", "39", "output"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((SIX, "--network", "1Gbit"), "give --helper"),
        ((SIX, "--helper", SIX, "--groupings"), "leave --groups, --groupings out"),
        ((SIX, "--helper", SIX, "--groups", "3"), "leave --groups, --groupings out"),
        ((SIX, SIX, "--helper", SIX), "--helper is for one rig"),
        (("--facts", "-", "--helper", SIX), "leave --facts out"),
    ],
)
def test_what_does_not_go_with_helpers_is_usage(arguments: tuple[str, ...], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--helper", "P106-100 x"), "'P106-100 x' is not understood"),
        (("--helper", SIX, "--network", "fast"), "network 'fast' is not understood: give its"),
        (("--helper", SIX, "--network", ""), "network '' is not understood: give its"),
        (("--helper", "RTX 3060 12 GB, 8 GB RAM"), "Leave these cards of helper1 out, or the"),
        (("--helper", f"rig1: {SIX}"), "rig1 cannot be its own helper"),
    ],
)
def test_a_helper_that_cannot_be_one_is_told_in_a_line(
    arguments: tuple[str, ...], said: str
) -> None:
    done = run(SIX, *arguments, "--model", "llama-70b")
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
