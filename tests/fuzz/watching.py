"""What must not change while requests come and go: processes, descriptors, slots, and logs."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.gateway.nginx import Gateway
from tests.gateway.rigs import SLOTS
from tests.integration.processes import Exporter, Llama, Proxy, wait_until

_CENSUS = Path(__file__).with_name("census.py")
_MODEL = "counting"
_MOST_TOKENS = 16
# The longest token of the model that counts.
_TOKEN_BYTES = 6


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a rig and its gateway hold between requests.

    Attributes:
        greenlets: of the proxy's worker.
        proxy, nginx, llama: open descriptors of the proxy's worker, of nginx's workers, of
            llama-server.
    """

    greenlets: int
    proxy: int
    nginx: int
    llama: int


class Rig:
    """A rig of one llama-server, whose proxy tells what it holds; as tests.gateway.rigs has it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._told = directory / "census"
        # What asks for an answer without end gets a short one; what asks for a long one, nothing.
        self.llama = Llama(
            directory, slots=SLOTS, name=_MODEL, n_ctx=4096, flags=f"-n {_MOST_TOKENS}"
        )
        self.proxy = Proxy(
            directory,
            [self.llama.url],
            program=(str(_CENSUS), str(self._told)),
            HEARTCODE_MODEL=_MODEL,
            HEARTCODE_SLOTS=str(SLOTS),
            HEARTCODE_TOKEN_BYTES=str(_TOKEN_BYTES),  # as the role finds it in the model's file
            HEARTCODE_MAX_TOKENS=str(_MOST_TOKENS),
            HEARTCODE_SUSPECT_S="600",
            HEARTCODE_TOKEN_SILENCE_TIMEOUT_S="600",  # noqa: S106
            HEARTCODE_PROBE_TIMEOUT_S="600",
        )
        self.exporter = Exporter(directory, self.proxy.env)
        self.worker = self.proxy.worker_pid()

    def kill(self) -> None:
        for program in (self.exporter, self.proxy, self.llama):
            program.kill()

    def greenlets(self) -> int:
        return self.census()["greenlets"]

    def census(self) -> dict[str, int]:
        """Return how many greenlets and objects the proxy's worker has."""
        self._told.unlink(missing_ok=True)
        os.kill(self.worker, signal.SIGRTMIN)
        wait_until(self._told.exists, "the worker tells what it holds")
        told: dict[str, int] = json.loads(self._told.read_text())
        return told

    def is_idle(self) -> bool:
        """Whether no request is in it, as it and its llama-server say themselves."""
        counted = ("active_requests", "inference_queue_depth")
        return not self.llama.is_generating() and not any(map(self.exporter.value, counted))

    def is_as_it_was(self) -> bool:
        """Whether nothing has ended and been started again."""
        return self.proxy.workers() == [self.worker] and self.llama.process.poll() is None

    def logs(self) -> str:
        return "".join(
            path.read_text(errors="replace")
            for path in sorted(self.directory.iterdir())
            if path.suffix in (".stdout", ".stderr")
        )


def held(rig: Rig, gateway: Gateway) -> Held:
    """Return what they hold now."""
    return Held(
        greenlets=rig.greenlets(),
        proxy=_descriptors(rig.worker),
        nginx=sum(map(_descriptors, gateway.workers())),
        llama=_descriptors(rig.llama.process.pid),
    )


def _descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def cpu_ms(pids: list[int]) -> float:
    """Return the CPU time that the first threads of processes have taken, in milliseconds.

    nginx's workers have no other thread, and the proxy's event loop is its worker's first one.
    """
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e6


def wake_up(gateway: Gateway, rig: Rig) -> None:
    """Ask nginx's workers and the rig for something, so that what they load once is there."""
    for _ in range(40):
        requests.get(f"{gateway.url}/health", timeout=60)
        requests.get(f"{rig.proxy.url}/slots", timeout=60)
