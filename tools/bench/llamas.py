"""Real llama-servers with the counting model, for benchmarks on a machine without a GPU."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from heartcode_models.demo.counting import write_model
from heartcode_models.gguf.kv_cache import kv_bytes_per_token
from heartcode_models.planner.find_models import find_models
from heartcode_models.units import MIB

from tools.bench.relays import Relay

_ROOT = Path(__file__).parents[2]
_CONTEXT = 4096
_STOPPING = _ROOT / "systemd/libexec/heartcode-llama-stopping"


def command() -> list[str]:
    """Return the command that runs llama-server here; it is built if it has to be.

    Raises:
        CalledProcessError: when it cannot be built.
    """
    given = os.environ.get("HEARTCODE_TEST_LLAMA_SERVER")
    if not given:
        script = _ROOT / "tools" / "test_llama_server.sh"
        given = subprocess.run([script], stdout=subprocess.PIPE, text=True, check=True).stdout
    return shlex.split(given)


class Model:
    """A counting model in a file; `dead_weight_mib` makes it as slow as the question needs."""

    def __init__(self, path: Path, *, dead_weight_mib: int) -> None:
        write_model(path, numbers=4096, dead_weight_mib=dead_weight_mib)
        self.path = path

    def tokens_in(self, mib: int) -> int:
        """Return how many tokens a host cache of that size holds."""
        (model,) = find_models(str(self.path))
        return mib * MIB // kv_bytes_per_token(model, "q8_0")


class Llama(Relay):
    """A llama-server with the flags that the role gives it; one thread, as others run beside it.

    `conversations` is where it saves them, if it does; `signs` is where its unit leaves what the
    proxy learns from it, as that of backend 0.
    """

    def stop(self) -> None:
        """End it as `systemctl stop` does: the unit's ExecStop waits for what is in no file yet."""
        if self._signs is not None:
            told = {
                "PATH": os.environ["PATH"],
                "RUNTIME_DIRECTORY": str(self._signs),
                "HEARTCODE_BACKEND": "0",
                "SERVICE_RESULT": "success",
                "MAINPID": str(self._process.pid),
            }
            subprocess.run([_STOPPING], env=told, check=True)
        self.__exit__()

    def kill(self) -> None:
        """End it as a crash does."""
        self._process.kill()
        self._process.wait(30)

    def __init__(
        self,
        directory: Path,
        server: Sequence[str],
        model: Path,
        *,
        slots: int,
        cache_ram_mib: int,
        context: int = _CONTEXT,
        threads: int = 1,
        conversations: Path | None = None,
        signs: Path | None = None,
        more: Sequence[str] = (),
        port: int = 0,
    ) -> None:
        self._signs = signs
        saving = ["--slot-save-path", str(conversations)] if conversations else []
        self.name = f"llama-{len(list(directory.glob('llama-*')))}"
        self._command = [
            *server,
            *("--host", "127.0.0.1", "--model", str(model), "-ngl", "0", "-fit", "off"),
            # A rig gives requests to who says that it serves the rig's model.
            *("--alias", "bench"),
            *("-c", str(context * slots), "-np", str(slots), "-b", "512", "-ub", "512"),
            *("-t", str(threads), *saving),
            *("-fa", "on", "-ctk", "q8_0", "-ctv", "q8_0", "--cache-ram", str(cache_ram_mib)),
            *("--metrics", "--no-ui", "--offline", *more),
        ]
        super().__init__(directory, [], port=port)

    def _start(self, _: Sequence[int]) -> subprocess.Popen[bytes]:
        if self._signs is not None:  # as systemd/libexec/heartcode-llama-server does
            self._signs.mkdir(parents=True, exist_ok=True)
            (self._signs / "0.kv").write_text("q8_0 on\n")
            (self._signs / "0.waiting").write_text(f"{self.port}\n")
        return self._run([*self._command, "--port", str(self.port)])
