"""Measures a backend with llama-bench: `python -m heartcode.gpu.bench TASK RESULTS`.

heartcode-bench@N.service runs it while the llama-server of its card or cards is stopped, with that
one's settings in the environment (MODEL_PATH, N_GPU_LAYERS, N_THREADS, HEARTCODE_LOAD_MODE,
CUDA_VISIBLE_DEVICES and, for a group, HEARTCODE_TENSOR_SPLIT).
TASK is JSON, written by the role tuning:

    {"prompt_tokens": 1024, "answer_tokens": 200, "depth": 2048, "repetitions": 2,
     "timeout_s": 1800,
     "candidates": [{"n_batch": 512, "n_ubatch": 256, "kv_type": "q8_0", "flash_attention": true}]}

and RESULTS what comes of it, also when the card fails half way:

    {"measured": [{"n_batch": 512, ..., "prompt": 310.2, "decode": 24.9}],
     "failed": ["512/1024 f16 fa off: ..."]}

Exit status: 78 where the task or the environment cannot work, 1 where nothing could be measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from heartcode.settings import EXIT_BAD_SETTINGS

_BENCH = "/opt/heartcode/llama.cpp/current/bin/llama-bench"
_NOTHING_MEASURED = 1
_LAST_LINES = 3

Candidate = Mapping[str, Any]


class TaskError(ValueError):
    """The task or the environment cannot work."""


class HangError(Exception):
    """llama-bench did not end in its time: another run would wait for the same card."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure, and with what."""

    command: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    timeout_s: float

    @classmethod
    def load(cls, path: Path, env: Mapping[str, str]) -> Task:
        """Read a task and the backend's environment.

        Raises:
            TaskError: something is missing or of the wrong kind.
        """
        try:
            task = json.loads(path.read_text())
            command = (
                env.get("HEARTCODE_LLAMA_BENCH", _BENCH),
                *("--model", env["MODEL_PATH"], "--n-gpu-layers", _layers(env["N_GPU_LAYERS"])),
                # As the llama-server: without its card it would measure the CPU.
                *_devices(env),
                *("--threads", env["N_THREADS"], "--load-mode", env["HEARTCODE_LOAD_MODE"]),
                *("--n-prompt", str(int(task["prompt_tokens"]))),
                *("--n-gen", str(int(task["answer_tokens"]))),
                *("--n-depth", str(int(task["depth"]))),
                *("--repetitions", str(int(task["repetitions"]))),
                *("--offline", "--progress", "--output", "jsonl"),
            )
            candidates = tuple(task["candidates"])
            for candidate in candidates:
                _options(candidate)
            return cls(command=command, candidates=candidates, timeout_s=float(task["timeout_s"]))
        except KeyError as error:
            raise TaskError(f"{error} is missing in the environment or in {path}") from None
        except (OSError, TypeError, ValueError) as error:
            raise TaskError(f"{path}: {error}") from None


@dataclass
class Results:
    """What was measured so far, and a sentence for each candidate that failed."""

    path: Path
    measured: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Replace the file, so that it is whole whenever it is read."""
        new = self.path.with_name(f".{self.path.name}.new")
        new.write_text(json.dumps({"measured": self.measured, "failed": self.failed}) + "\n")
        new.replace(self.path)


def _layers(value: str) -> str:
    """As llama-bench takes them: it knows numbers alone, and -1 for all (tools/llama-bench)."""
    return "-1" if value == "all" else value


def _devices(env: Mapping[str, str]) -> tuple[str, ...]:
    """As heartcode-llama-server has them; a comma would make llama-bench measure one by one."""
    visible = env.get("CUDA_VISIBLE_DEVICES", "")
    if not visible:
        return ()
    devices = [f"CUDA{number}" for number in range(visible.count(",") + 1)]
    if len(devices) == 1:
        return ("--device", *devices)
    split = env["HEARTCODE_TENSOR_SPLIT"].replace(",", "/")
    return ("--device", "/".join(devices), "--split-mode", "layer", "--tensor-split", split)


def _attention(candidate: Candidate) -> str:
    return "on" if candidate["flash_attention"] else "off"


def name_of(candidate: Candidate) -> str:
    """Return how a candidate is called in messages."""
    return (
        f"{candidate['n_batch']}/{candidate['n_ubatch']} {candidate['kv_type']}"
        f" fa {_attention(candidate)}"
    )


def _options(candidate: Candidate) -> tuple[str, ...]:
    kv_type = str(candidate["kv_type"])
    return (
        *("--batch-size", str(int(candidate["n_batch"]))),
        *("--cache-type-k", kv_type, "--cache-type-v", kv_type),
        *("--flash-attn", _attention(candidate)),
        *("--ubatch-size", str(int(candidate["n_ubatch"]))),
    )


def runs_of(candidates: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    """Group candidates that differ in the ubatch alone: one run loads the model once for them."""

    def alike(candidate: Candidate) -> tuple[str, ...]:
        return _options(candidate)[:-1]

    for _, group in groupby(sorted(candidates, key=alike), key=alike):
        yield list(group)


def measure(task: Task, results: Results) -> None:
    """Measure every candidate; what fails is noted, and those after it are measured all the same.

    Raises:
        HangError: llama-bench did not end in its time.
    """
    for run in runs_of(task.candidates):
        left = run
        while left:
            said, why = _bench(task, left)
            done = list(_speeds(said, left))
            results.measured += done
            left = left[len(done) :]
            if left:
                # It ends with the first candidate that fails, and goes through them in order.
                results.failed.append(f"{name_of(left[0])}: {why}")
                print(f"{name_of(left[0])} failed: {why}", flush=True)
                left = left[1:]
            results.save()


def _bench(task: Task, run: Sequence[Candidate]) -> tuple[list[dict[str, Any]], str]:
    """Run llama-bench; return what it measured, and why it ended before all of it was."""
    ubatches = ",".join(str(candidate["n_ubatch"]) for candidate in run)
    command = [*task.command, *_options(run[0])[:-1], ubatches]
    print(f"measuring {', '.join(map(name_of, run))}", flush=True)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=task.timeout_s
        )
    except subprocess.TimeoutExpired:
        raise HangError(f"llama-bench had not ended after {task.timeout_s:g} s") from None
    except OSError as error:
        raise TaskError(f"{command[0]}: {error.strerror}; run the playbook site.yml") from None
    lines = [line for line in done.stderr.splitlines() if ": benchmark " not in line]
    why = " / ".join(lines[-_LAST_LINES:]) or f"llama-bench ended with status {done.returncode}"
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")], why


def _speeds(said: Sequence[dict[str, Any]], run: Sequence[Candidate]) -> Iterator[dict[str, Any]]:
    """Yield those of `run` of which both speeds are there: a test of each, one after the other."""
    for candidate, prompt, decode in zip(run, said[::2], said[1::2], strict=False):
        found = {"prompt": prompt["avg_ts"], "decode": decode["avg_ts"]}
        print(f"{name_of(candidate)}: {found}", flush=True)
        yield {**candidate, **found}


def main(argv: Sequence[str], env: Mapping[str, str]) -> int:
    """Run the command; return its exit status."""
    if len(argv) != 2:  # noqa: PLR2004 - the two files
        print("usage: python -m heartcode.gpu.bench TASK RESULTS", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    results = Results(path=Path(argv[1]))
    try:
        results.save()
        measure(Task.load(Path(argv[0]), env), results)
    except HangError as error:
        results.failed.append(f"{error}; what was left is not measured")
        results.save()
    except (OSError, TaskError) as error:
        print(f"card_bench: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    return 0 if results.measured else _NOTHING_MEASURED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
