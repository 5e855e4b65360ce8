"""Compares predicted with real memory: a real llama-server, models of zeros in the real shapes.

Run ``tools/measure_plan.py`` on a host with a GPU. With ``--devices`` that GPU is made
several, over which the layers are shared out as over the cards of a group. Without a GPU it still
compares what llama-server says that it has allocated for weights, KV cache and computing, on the
CPU, and what host RAM it takes beside the file.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from heartcode_models.errors import ModelError
from heartcode_models.gguf.ggml_types import KV_TYPES
from heartcode_models.gguf.kv_cache import kv_bytes_per_token
from heartcode_models.gguf.model import Model
from heartcode_models.planner.cards import Card, Generation, generation_of
from heartcode_models.planner.compute_graph import Part
from heartcode_models.planner.host_ram import (
    LIBRARIES,
    LlamaServer,
    host_weights,
    own_ram,
    private_ram,
)
from heartcode_models.planner.known_models import SHAPES, known_model
from heartcode_models.planner.layer_split import Share, shares
from heartcode_models.planner.settings import Settings
from heartcode_models.planner.vram import (
    compute_buffer,
    kv_cache,
    vram_need,
    weights,
)
from heartcode_models.units import MIB

_START = Path(__file__).resolve().parents[2] / "systemd/libexec/heartcode-llama-server"
_SERVER = "/opt/heartcode/llama.cpp/current/bin/llama-server"
_READY_SECONDS, _PROMPT_SECONDS, _STOP_SECONDS = 600, 1800, 30
#: The goal: never under, and at most so much over.
LARGEST_ERROR = 0.08
#: llama-server reports hundredths of a MiB.
_ROUNDING = 0.01
VRAM, BESIDE, SUM = "VRAM", "CUDA and pool", "compute, CUDA and pool"
RAM, FILES = "host RAM", "libraries"
#: Of /proc/PID/status, and the head of each mapping in smaps.
_RESIDENT = re.compile(r"^Rss(Anon|File|Shmem):\s+(\d+) kB$", re.MULTILINE)
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)")
#: The device (``CUDA0``, ``CPU``, ``CPU_Mapped``, ``CUDA_Host``), what for and how much.
_REPORTED = re.compile(r"(\w+) (model|KV|compute) buffer size = *([\d.]+) MiB")
_DEVICE = re.compile(r"CUDA\d+")
#: Context, slots, ubatch, type of K and V and layers on the card (None: all): each shows another
#: part of the formulas, in less than three minutes on a fast card.
_QUICK: tuple[tuple[int, int, int, str, int | None], ...] = (
    (8192, 2, 512, "q8_0", None),  # the mining cards' plan
    (16384, 2, 512, "q8_0", None),  # K and V in f16 are the widest
    (8192, 2, 256, "q4_0", None),
    (8192, 2, 128, "f16", None),  # no copy and no rotation
    (4096, 1, 512, "q8_0", 16),  # half of the layers are sent to the card
    (4096, 1, 512, "q8_0", 0),
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One part of one configuration, in MiB."""

    what: str
    predicted: float
    real: float
    #: Whether the prediction is the most that it can be, and not what it should be.
    bound: bool = False

    @property
    def error(self) -> float:
        """Above 0: more was predicted than is taken."""
        return self.predicted / self.real - 1

    @property
    def good(self) -> bool:
        """Never under, and not far over."""
        if self.predicted < self.real - _ROUNDING:
            return False
        return self.bound or self.error <= LARGEST_ERROR


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if no prediction is too low and none too high."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.write and not arguments.models:
        parser.error("--write needs --models, where to write to")
    try:
        found = list(_measure_all(arguments))
    except (ModelError, OSError, subprocess.SubprocessError) as error:
        print(f"measure_plan.py: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps([vars(c) | {"error": round(c.error, 4)} for c in found], indent=2))
    good = all(comparison.good for comparison in found) and bool(found or arguments.write)
    return 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="measure_plan.py",
        description="Compare the planner's predictions with what a real llama-server takes.",
        epilog="On a rig, with its backends stopped on that card: "
        "tools/measure_plan.py --gpu GPU-... Exit status 0: nothing was under, and nothing more"
        f" than {LARGEST_ERROR:.0%} over.",
    )
    parser.add_argument("--server", default=_SERVER, help="llama-server (default %(default)s)")
    parser.add_argument("--gpu", help="the card's UUID (nvidia-smi -L); none: measure on the CPU")
    parser.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="make the card N devices (GGML_CUDA_DEVICES) and compare what each of a group holds",
    )
    parser.add_argument("--size", choices=SHAPES, default="8B", help="(default %(default)s)")
    parser.add_argument("--quantisations", nargs="+", default=["Q4_K_M"], metavar="Q")
    parser.add_argument("--contexts", nargs="+", type=int, default=[4096, 8192], metavar="N")
    parser.add_argument("--slots", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--ubatches", nargs="+", type=int, default=[512], metavar="N")
    parser.add_argument("--kv-types", nargs="+", choices=KV_TYPES, default=["q8_0"])
    parser.add_argument(
        "--quick", action="store_true", help="a few settings that show every part of the formulas"
    )
    parser.add_argument(
        "--models",
        metavar="DIRECTORY",
        help="where the models of zeros lie or are written; a host that has them needs neither gguf"
        " nor numpy (default: a temporary directory)",
    )
    parser.add_argument(
        "--write", action="store_true", help="write the models to --models and measure nothing"
    )
    parser.add_argument("--port", type=int, default=8079, help="(default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers for a record too")
    return parser


def _measure_all(arguments: argparse.Namespace) -> Iterator[Comparison]:
    card = _card(arguments.gpu) if arguments.gpu else None
    generation = card.generation if card else None
    with _directory(arguments.models) as directory:
        for quantisation in arguments.quantisations:
            model = known_model(arguments.size, quantisation)
            path = _zeros(directory, arguments.size, quantisation)
            if arguments.write:
                continue
            for settings in _settings(arguments, model):
                found = (
                    _measure_group((card,) * arguments.devices, arguments, model, path, settings)
                    if card and arguments.devices > 1
                    else _measure(arguments, model, path, settings, generation)
                )
                for comparison in found:
                    _say(comparison)
                    yield comparison


@contextmanager
def _directory(given: str | None) -> Iterator[Path]:
    if given:
        Path(given).mkdir(parents=True, exist_ok=True)
        yield Path(given)
        return
    with tempfile.TemporaryDirectory(prefix="heartcode-measure-") as made:
        yield Path(made)


def _zeros(directory: Path, size: str, quantisation: str) -> Path:
    """The file of a model of zeros, written if it is not there."""
    path = directory / f"{size}-{quantisation}.gguf"
    if not path.exists():
        from tools.planning.synthetic import write_synthetic  # noqa: PLC0415 (it needs gguf)

        write_synthetic(path, size, quantisation)
    return path


def _settings(arguments: argparse.Namespace, model: Model) -> Iterator[Settings]:
    rows: Sequence[tuple[int, int, int, str, int | None]] = (
        [row for row in _QUICK if arguments.gpu or row[-1] is None]
        if arguments.quick
        else [
            (*row, None)
            for row in product(
                arguments.contexts, arguments.slots, arguments.ubatches, arguments.kv_types
            )
        ]
    )
    for n_ctx, slots, n_ubatch, kv_type, layers in rows:
        yield Settings(
            n_ctx=n_ctx,
            slots=slots,
            kv_type=kv_type,
            n_batch=max(512, n_ubatch),
            n_ubatch=n_ubatch,
            n_gpu_layers=(model.all_layers if layers is None else layers) if arguments.gpu else 0,
        )


def _say(comparison: Comparison) -> None:
    print(
        f"{comparison.what:<58} predicted {comparison.predicted:8.1f} MiB"
        f"  real {comparison.real:8.1f} MiB  {comparison.error:+.1%}"
        f"{'' if comparison.good else '  WRONG'}",
        flush=True,
    )


def _measure(
    arguments: argparse.Namespace,
    model: Model,
    path: Path,
    settings: Settings,
    generation: Generation | None,
) -> Iterator[Comparison]:
    # What is sent to the card for the other layers is known at most.
    partly = bool(arguments.gpu) and settings.n_gpu_layers < model.all_layers
    layers = f" -ngl {settings.n_gpu_layers}" if partly else ""
    label = f"{_label(model, settings)}{layers}"
    before = _vram_used(arguments.gpu) if arguments.gpu else 0
    with _running(arguments, path, settings) as (pid, log):
        if arguments.gpu:
            _fill(arguments.port, settings)
        proc = Path(f"/proc/{pid}")
        ram = resident((proc / "status").read_text(), (proc / "smaps").read_text())
        used = _vram_used(arguments.gpu) - before if arguments.gpu else 0
        real = reported(log.read_text(), "CUDA0" if arguments.gpu else None)
    predicted: dict[str, float] = dict(_parts(model, settings, gpu=bool(arguments.gpu)))
    if generation:
        need = vram_need(model, settings, generation=generation)
        server = LlamaServer(model, settings, generation)
        predicted |= {BESIDE: need.pool + need.runtime, VRAM: need.total}
        predicted |= {RAM: private_ram(server, "none"), FILES: LIBRARIES}
        real |= {BESIDE: used - sum(real.values()), VRAM: used} | ram
    else:
        # The file is mapped, and without a prompt no buffer for computing has been touched.
        predicted[RAM] = own_ram(model, settings) + predicted["KV"]
        real[RAM] = ram[RAM]
    if partly:
        # llama.cpp takes for the one what is counted as the other.
        for parts in (predicted, real):
            parts[SUM] = parts.pop("compute") + parts.pop(BESIDE)
    for name, size in predicted.items():
        if real.get(name):
            yield Comparison(
                what=f"{label}: {name}",
                predicted=size / MIB,
                real=real[name],
                bound=name in (RAM, FILES) or (partly and name in (SUM, VRAM)),
            )


def _measure_group(
    cards: tuple[Card, ...],
    arguments: argparse.Namespace,
    model: Model,
    path: Path,
    settings: Settings,
) -> Iterator[Comparison]:
    """Compare what each of several devices holds.

    They are one card's, so what CUDA takes for itself and the pool cannot be told apart.
    """
    planned = shares(cards, model, settings)
    with _running(arguments, path, settings, planned) as (_, log):
        _fill(arguments.port, settings)
        text = log.read_text()
    for number, share in enumerate(planned):
        real = reported(text, f"CUDA{number}")
        predicted = {
            "model": share.need.weights,
            "KV": share.need.kv,
            "compute": share.need.compute,
        }
        for name, size in predicted.items():
            yield Comparison(
                what=f"{_label(model, settings)}: {name} of {number}, {len(share.layers)} layers",
                predicted=size / MIB,
                real=real[name],
            )


def _label(model: Model, settings: Settings) -> str:
    return (
        f"{model.quantisation} {settings.slots} x {settings.n_ctx} {settings.kv_type}"
        f" ubatch {settings.n_ubatch}"
    )


def reported(log: str, device: str | None) -> dict[str, float]:
    """MiB that llama-server says it has allocated, by what for.

    Args:
        log: What it has written, with ``-lv 4``.
        device: As llama.cpp calls it, ``CUDA0``; None: all that is in host RAM.
    """
    sums: dict[str, float] = {}
    for name, what, size in _REPORTED.findall(log):
        if name == device or (device is None and not _DEVICE.fullmatch(name)):
            sums[what] = sums.get(what, 0) + float(size)
    return sums


def _parts(model: Model, settings: Settings, *, gpu: bool) -> dict[str, int]:
    if gpu:
        return {
            "model": weights(model, settings.n_gpu_layers),
            "KV": kv_cache(model, settings),
            "compute": compute_buffer(model, settings),
        }
    cells = settings.ctx_per_slot * settings.slots
    whole = replace(settings, n_gpu_layers=model.all_layers)
    return {
        "model": host_weights(model, 0),
        "KV": kv_bytes_per_token(model, settings.kv_type) * cells,
        "compute": compute_buffer(model, whole, part=Part(on_gpu=False)),
    }


def allocated_on_the_cpu(
    server: Path, path: Path, settings: Settings, port: int
) -> dict[str, float]:
    """MiB that a llama-server says it has allocated for a model on the CPU, by what for."""
    arguments = argparse.Namespace(server=str(server), port=port, gpu=None)
    with _running(arguments, path, replace(settings, n_gpu_layers=0)) as (_, log):
        return reported(log.read_text(), None)


@contextmanager
def _running(
    arguments: argparse.Namespace, path: Path, settings: Settings, group: Sequence[Share] = ()
) -> Iterator[tuple[int, Path]]:
    """A llama-server with the flags of the fleet; gives its process id and its log."""
    extra = ["-lv 4" if arguments.gpu else "-lv 4 --no-warmup"]
    if group:
        devices = ",".join(f"CUDA{number}" for number in range(len(group)))
        split = ",".join(str(len(share.layers)) for share in group)
        extra.append(f"--device {devices} --split-mode layer --tensor-split {split}")
    environment = os.environ | {
        "HEARTCODE_LLAMA_SERVER": arguments.server,
        "MODEL_PATH": str(path),
        "PORT": str(arguments.port),
        "N_GPU_LAYERS": str(settings.n_gpu_layers),
        "N_CTX": str(settings.n_ctx),
        "N_BATCH": str(settings.n_batch),
        "N_THREADS": "1",
        "HEARTCODE_UBATCH": str(settings.n_ubatch),
        "HEARTCODE_SLOTS": str(settings.slots),
        "HEARTCODE_KV_TYPE": settings.kv_type,
        # On the CPU the holes of the file shall not become memory.
        "HEARTCODE_LOAD_MODE": "none" if arguments.gpu else "mmap",
        "HEARTCODE_EXTRA_ARGS": " ".join(extra),
    }
    if arguments.gpu:
        environment["CUDA_VISIBLE_DEVICES"] = arguments.gpu
    if group:
        environment["GGML_CUDA_DEVICES"] = str(len(group))
    log = path.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen([_START], env=environment, stdout=file, stderr=file)
    try:
        _wait_until_ready(process, arguments.port, log)
        yield process.pid, log
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            end = "\n".join(log.read_text().splitlines()[-5:])
            raise ModelError(f"llama-server ended with status {process.returncode}:\n{end}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.2)  # it loads, or does not listen yet
    raise ModelError(f"llama-server was not ready after {_READY_SECONDS} s")


def _fill(port: int, settings: Settings) -> None:
    """Fill every slot's context: scratch memory is allocated when it is first needed."""
    body = {
        "prompt": [300] * (settings.n_ctx - 64),
        "n_predict": 4,  # enough for what decoding loads; on the CPU a token takes seconds
        "ignore_eos": True,
        "cache_prompt": False,
    }

    def ask(_: int) -> None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/completion",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_PROMPT_SECONDS) as answer:  # noqa: S310
            answer.read()

    with ThreadPoolExecutor(settings.slots) as pool:
        list(pool.map(ask, range(settings.slots)))


def resident(status: str, smaps: str) -> dict[str, float]:
    """MiB of host RAM of a process, by the planner's names.

    What the driver has mapped counts as files there, but is memory that nothing else can have.

    Args:
        status: /proc/PID/status.
        smaps: /proc/PID/smaps.
    """
    kib = {name: int(value) for name, value in _RESIDENT.findall(status)}
    control, mapped = 0, ""
    for line in smaps.splitlines():
        if head := _MAPPING.match(line):
            mapped = head[1]
        elif line.startswith("Rss:") and mapped.startswith("/dev/nvidia"):
            control += int(line.split()[1])
    return {
        RAM: (kib["Anon"] + kib["Shmem"] + control) / 1024,
        FILES: (kib["File"] - control) / 1024,
    }


def _vram_used(uuid: str) -> float:
    """MiB that are taken on a card, by whomever."""
    used = _ask_nvidia_smi(uuid, "memory.used")
    if not used.isdigit():
        raise ModelError(f"nvidia-smi cannot tell what is used on {uuid}: {used}")
    return float(used)


def _card(uuid: str) -> Card:
    name = _ask_nvidia_smi(uuid, "name")
    vram = int(_ask_nvidia_smi(uuid, "memory.total")) * MIB
    return Card(name=name, vram=vram, generation=generation_of(name))


def _ask_nvidia_smi(uuid: str, what: str) -> str:
    done = subprocess.run(
        ["nvidia-smi", f"--id={uuid}", f"--query-gpu={what}", "--format=csv,noheader,nounits"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ModelError(f"nvidia-smi cannot read {uuid}: {done.stdout}{done.stderr}".strip())
    return done.stdout.strip()
