"""heartcode.gpu.bench with the real llama-bench and the model that counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
GOOD = {"n_batch": 64, "n_ubatch": 64, "kv_type": "q8_0", "flash_attention": True}


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """The llama-bench that was built with the llama-server under test."""
    *loader, server = os.environ["HEARTCODE_TEST_LLAMA_SERVER"].split()
    program = tmp_path / "llama-bench"
    real = f"{' '.join(loader)} {Path(server).with_name('llama-bench')}"
    said = tmp_path / "said.jsonl"
    program.write_text(f'#!/bin/bash\nset -o pipefail\n{real} "$@" | tee -a {said}\n')
    program.chmod(0o755)
    return program


def run(
    tmp_path: Path,
    bench: Path,
    *candidates: dict[str, Any],
    card: str = "",
    layers: str = "0",
    split: str | None = None,
    **changes: Any,
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    task = {"prompt_tokens": 64, "answer_tokens": 8, "depth": 32, "repetitions": 1, "timeout_s": 60}
    (tmp_path / "task.json").write_text(
        json.dumps(task | {"candidates": list(candidates)} | changes)
    )
    done = subprocess.run(
        [sys.executable, "-m", "heartcode.gpu.bench", "task.json", "results.json"],
        cwd=tmp_path,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT / "app"),
            "HEARTCODE_LLAMA_BENCH": str(bench),
            "MODEL_PATH": os.environ["HEARTCODE_TEST_MODEL"],
            "N_GPU_LAYERS": layers,
            "N_THREADS": "1",
            "HEARTCODE_LOAD_MODE": "none",
            "CUDA_VISIBLE_DEVICES": card,
        }
        | ({"HEARTCODE_TENSOR_SPLIT": split} if split else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done, json.loads((tmp_path / "results.json").read_text())


def test_each_candidate_gets_both_speeds(tmp_path: Path, bench: Path) -> None:
    candidates = [
        GOOD,
        GOOD | {"n_ubatch": 16},
        GOOD | {"kv_type": "f16", "flash_attention": False},
    ]
    done, results = run(tmp_path, bench, *candidates)
    assert done.returncode == 0, done.stderr
    assert results["failed"] == []
    said = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    for candidate in candidates:
        (found,) = (r for r in results["measured"] if candidate.items() <= r.items())
        assert found["prompt"] in [one["avg_ts"] for one in said if one["n_prompt"] > 0]
        assert found["decode"] in [one["avg_ts"] for one in said if one["n_gen"] > 0]
    assert done.stdout.count("measuring ") == 2  # those that differ in the ubatch alone are one run


def test_all_layers_are_what_llama_bench_calls_so(tmp_path: Path, bench: Path) -> None:
    done, results = run(tmp_path, bench, GOOD, layers="all")
    assert done.returncode == 0, done.stderr
    assert len(results["measured"]) == 1


def test_a_candidate_that_fails_does_not_end_the_others(tmp_path: Path, bench: Path) -> None:
    bad = GOOD | {"flash_attention": False}  # a quantised V cache needs it
    done, results = run(tmp_path, bench, bad, bad | {"n_ubatch": 16}, GOOD)
    assert done.returncode == 0, done.stderr
    assert [GOOD.items() <= found.items() for found in results["measured"]] == [True]
    assert [line.split(":")[0] for line in results["failed"]] == [
        "64/64 q8_0 fa off",
        "64/16 q8_0 fa off",
    ]
    assert "failed to create context" in results["failed"][0]


def test_nothing_measured_is_a_failure(tmp_path: Path, bench: Path) -> None:
    done, results = run(tmp_path, bench, GOOD | {"flash_attention": False})
    assert (done.returncode, results["measured"]) == (1, [])


def test_a_card_that_is_gone_is_not_measured_on_the_cpu(tmp_path: Path, bench: Path) -> None:
    """As far as this build of llama-bench is concerned it is: it has no CUDA at all."""
    done, results = run(tmp_path, bench, GOOD, card="GPU-00000000-0000-0000-0000-000000000001")
    assert (done.returncode, results["measured"]) == (1, [])
    assert "CUDA0" in results["failed"][0]


def test_a_group_is_measured_as_one(tmp_path: Path, bench: Path) -> None:
    bench.write_text('#!/bin/sh\necho "$@" >&2\n')
    done, results = run(tmp_path, bench, GOOD, card="GPU-1,GPU-2", split="20,13")
    assert done.returncode == 1
    devices = "--device CUDA0/CUDA1 --split-mode layer --tensor-split 20/13"
    assert devices in results["failed"][0]
    done, _ = run(tmp_path, bench, GOOD, card="GPU-1,GPU-2")
    assert done.returncode == 78
    assert "HEARTCODE_TENSOR_SPLIT" in done.stderr


def test_a_run_that_does_not_end_is_the_last(tmp_path: Path, bench: Path) -> None:
    bench.write_text("#!/bin/sh\nexec sleep 1000\n")
    done, results = run(tmp_path, bench, GOOD, GOOD | {"kv_type": "f16"}, timeout_s=1)
    assert (done.returncode, results["measured"]) == (1, [])
    assert results["failed"] == [
        "llama-bench had not ended after 1 s; what was left is not measured"
    ]


def test_what_cannot_work_is_told(tmp_path: Path, bench: Path) -> None:
    done, _ = run(tmp_path, bench / "not", GOOD)
    assert done.returncode == 78
    assert "run the playbook site.yml" in done.stderr
    done, _ = run(tmp_path, bench, {"n_batch": 64})
    assert done.returncode == 78
    assert "'kv_type' is missing" in done.stderr
