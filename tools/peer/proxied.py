#!/usr/bin/env python3
"""Stands where llama.cpp's tests look for llama-server: the proxy, with the real one behind it.

The proxy is started as heartcode.service starts it, at the port that the test asks; llama-server
gets a port of its own and the counting model.
"""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "app"))

from tools.bench.relays import HeartCode, free_ports
from tools.peer.arguments import COMMAND, MODEL, Arguments, understood

_LOADED_WITHIN_S = 60
# A test gives what it has started 5 s for its end.
_ENDS_WITHIN_S = 2


class Rig(HeartCode):
    """The proxy of a rig whose one backend serves whatever model a test names."""

    def __init__(self, directory: Path, backend: int, wanted: Arguments) -> None:
        self.settings = {"HEARTCODE_MODEL": ""}
        self.slots = wanted.slots
        super().__init__(directory, [backend], port=wanted.port)

    def end(self) -> None:
        """End it, and show its log among the output of the test."""
        _end(self._process)
        print((self.directory / "log").read_text(errors="replace"), file=sys.stderr)


def main() -> int:
    """Run both until SIGTERM, or until one of them ends; that is the only way to return."""
    wanted = understood(sys.argv[1:], model=os.environ[MODEL])
    signal.signal(signal.SIGTERM, _leave)
    (port,) = free_ports(1)
    with ExitStack() as started:
        # Keys are the gateway's business: a rig's llama-server asks for none.
        command = [*shlex.split(os.environ[COMMAND]), *wanted.rest, "--port", str(port)]
        llama = subprocess.Popen(command)
        started.callback(_end, llama)
        _wait_until_loaded(llama, port)
        directory = Path(started.enter_context(tempfile.TemporaryDirectory(prefix="peer-")))
        started.callback(Rig(directory, port, wanted).end)
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    return 1


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_loaded(llama: subprocess.Popen[bytes], port: int) -> None:
    """Return when it has loaded its model.

    Raises:
        SystemExit: it has ended instead, with its status; or it takes too long.
    """
    deadline = time.monotonic() + _LOADED_WITHIN_S
    while time.monotonic() < deadline:
        if llama.poll() is not None:
            raise SystemExit(llama.returncode or 1)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise SystemExit(f"llama-server has not loaded its model within {_LOADED_WITHIN_S} s")


if __name__ == "__main__":
    sys.exit(main())
