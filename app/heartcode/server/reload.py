"""What `systemctl reload heartcode` runs: `MAINPID=... python -m heartcode.reload`.

It is a program of the new code with the new settings. It tries both, orders the master to go on
with them, and returns when a new worker serves. Where something is wrong it says so and fails, and
the proxy that runs goes on as it is.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from pathlib import Path

from heartcode.server import reload_files
from heartcode.server.arbiter import Program, command
from heartcode.server.reload_files import Order
from heartcode.settings import EXIT_BAD_SETTINGS, Settings, SettingsError

# For a new worker to serve. systemd ends the reload after 90 seconds (TimeoutStartSec).
PATIENCE_S = 60.0


class ReloadError(Exception):
    """The reload failed; the text says what happened."""


def try_out() -> None:
    """Load all that a worker loads, with the settings of this process."""
    program = Program()
    _ = program.cfg.worker_class
    program.wsgi()


def order(run_dir: Path, master: int, environment: Mapping[str, str]) -> str:
    """Order the master to go on as this version with this environment; return the order's id.

    Raises:
        ReloadError: there is no such master.
    """
    state = reload_files.state(run_dir)
    if state is None or state.master != master:
        raise ReloadError(
            f"process {master} is no proxy that uses {run_dir}; a new HEARTCODE_RUN_DIR takes a"
            " restart"
        )
    given = Order(
        id=uuid.uuid4().hex,
        command=command(),
        directory=str(Path.cwd()),
        environment=dict(environment),
    )
    reload_files.give(run_dir, given)
    os.kill(master, signal.SIGHUP)
    return given.id


def wait(run_dir: Path, master: int, order_id: str) -> None:
    """Return when the order is carried out.

    Raises:
        ReloadError: it failed, or it takes too long.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        state = reload_files.state(run_dir)
        if state is None or not _runs(master):
            raise ReloadError("the proxy has ended")
        if state.order == order_id:
            if state.error:
                raise ReloadError(state.error)
            return
        time.sleep(0.05)
    raise ReloadError(f"no new worker serves after {PATIENCE_S:g} s")


def _runs(process: int) -> bool:
    # Not by /proc: ProtectProc= hides the master, whose user namespace is another one.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Reload the proxy; return the exit status."""
    master = os.environ.get("MAINPID", "")
    if not master.isdigit():
        print("MAINPID must be the process id of the proxy's master", file=sys.stderr)
        return 2
    try:
        settings = Settings.from_env(os.environ)
        try_out()
        ordered = order(settings.run_dir, int(master), os.environ)
        wait(settings.run_dir, int(master), ordered)
    except SettingsError as error:
        print(f"{error}\nThe proxy that runs keeps its settings.", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    except ReloadError as error:
        print(f"The reload failed: {error}", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001 - whatever the new code raises when it is loaded
        traceback.print_exc()
        print("This program cannot start; the proxy that runs goes on as it is.", file=sys.stderr)
        return 1
    return 0
