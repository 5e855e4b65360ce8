"""Lets a llama-server count: with the CPU alone and, where a card has room, on that card.

    smoke_test.py LLAMA_SERVER MODEL [--build BUILD] [--cards UUID...]

MODEL is the model that counts (docs/demo-model.md). The first run uses no card, so that a binary
that does not start at all is known on every host, one without cards among them, and what serves
there is left in peace. The second one, with --cards, takes the card with the most free memory, if
that is enough. BUILD is what it has to call itself, such as b11312-0c1e57098. Prints what was done.
An error is one line on stderr, exit status 1.

Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

#: A CUDA context takes 100 to 150 MiB, cuBLAS and the model the rest, with a margin.
CARD_MIB = 768
#: Reading the binary from a slow disk, and the card's first context on an x1 riser.
START_S = 180
ANSWER_S = 120
PROMPT, ANSWER = " 7", " 8 9 10 11 12"
ON_CPU = ("--device", "none", "--gpu-layers", "0")
# Naming the device makes a server end that cannot use it; without, it would count on the CPU.
ON_CARD = ("--device", "CUDA0", "--gpu-layers", "99", "--flash-attn", "on")


class SmokeError(Exception):
    """What is wrong with the binary, in one line."""


def free_port() -> int:
    """A port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def last_lines(log: Path) -> str:
    """The end of a log, on one line."""
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:]) or "nothing"


def ask(url: str, body: Mapping[str, object] | None = None, timeout_s: float = 5) -> object:
    """The JSON that an address answers with; OSError when it does not."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (our own URL)
    with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # noqa: S310
        return json.load(answer)


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has ended when the block is left."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def count(
    server: str, model: str, options: Sequence[str], *, devices: str, log: Path, build: str
) -> None:
    """Start a llama-server and let it count.

    Args:
        server: Path of llama-server.
        model: Path of the model that counts.
        options: What it computes on.
        devices: ``CUDA_VISIBLE_DEVICES``.
        log: Where its output goes.
        build: What it has to call itself; "" for anything.

    Raises:
        SmokeError: it does not start, is another build, or says something else.
    """
    port = free_port()
    common = ("--host", "127.0.0.1", "--port", str(port), "--ctx-size", "512", "--parallel", "1")
    command = [server, "--model", model, *common, "--fit", "off", "--no-ui", *options]
    with running(command, {"CUDA_VISIBLE_DEVICES": devices}, log) as process:
        deadline = time.monotonic() + START_S
        while True:
            try:
                ask(f"http://127.0.0.1:{port}/health")
                break
            except (OSError, ValueError):
                pass  # not yet: refused, or 503 while it loads
            if process.poll() is not None:
                raise SmokeError(f"it ended with {process.returncode}: {last_lines(log)}")
            if time.monotonic() > deadline:
                raise SmokeError(f"it was not ready within {START_S} s: {last_lines(log)}")
            time.sleep(0.1)
        body = {"prompt": PROMPT, "n_predict": len(ANSWER.split()), "temperature": 0}
        try:
            props = ask(f"http://127.0.0.1:{port}/props")
            answer = ask(f"http://127.0.0.1:{port}/completion", body, ANSWER_S)
        except (OSError, ValueError) as error:
            raise SmokeError(f"it does not answer ({error}): {last_lines(log)}") from None
    itself = props.get("build_info") if isinstance(props, dict) else props
    if build and itself != build:
        raise SmokeError(f"it calls itself {itself!r} instead of {build!r}")
    said = answer.get("content") if isinstance(answer, dict) else answer
    if said != ANSWER:
        raise SmokeError(f"after {PROMPT!r} it says {said!r} instead of {ANSWER!r}")


def roomy_card(uuids: Sequence[str]) -> str | None:
    """The card with the most free memory, by UUID; None if none has enough or no driver answers."""
    query = ("--query-gpu=memory.free,uuid", "--format=csv,noheader,nounits")
    try:
        done = subprocess.run(
            ["nvidia-smi", *query], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    rows = re.findall(r"^(\d+), (GPU-\S+)$", done.stdout, re.MULTILINE)
    fitting = [(int(mib), uuid) for mib, uuid in rows if uuid in uuids and int(mib) >= CARD_MIB]
    return max(fitting)[1] if fitting else None


def main() -> int:
    """Parse the command line and test."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("server")
    parser.add_argument("model")
    parser.add_argument("--build", default="")
    parser.add_argument("--cards", nargs="*", default=[], metavar="UUID")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch, "log")
        where = "on the CPU"
        try:
            count(args.server, args.model, ON_CPU, devices="", log=log, build=args.build)
            card = roomy_card(args.cards)
            if card:
                where = f"on card {card}"
                count(args.server, args.model, ON_CARD, devices=card, log=log, build=args.build)
        except (SmokeError, OSError) as error:
            print(f"Counting {where}: {error}", file=sys.stderr)
            return 1
    if args.cards and not card:
        where += f" alone; no card has {CARD_MIB} MiB free"
    print(f"It counts {where}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
