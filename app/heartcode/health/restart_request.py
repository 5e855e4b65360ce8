"""How the proxy, which is locked in, has a backend that hangs restarted.

It leaves an empty file `hung/N` in its run directory. `heartcode-revive@N.path` sees it, and
`heartcode-revive@N.service` takes it away and restarts `heartcode-llama@N.service`, if that has
started at all: nothing else can be asked for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from heartcode.telemetry import log, metrics

DIRECTORY = "hung"


class RestartRequest:
    """Asks for the restart of one backend, and not again before it could have come back.

    Args:
        file: what stands for the request.
        backend: the backend's name.
        pause_s: seconds between two requests.
        clock: seconds.
    """

    def __init__(
        self,
        file: Path,
        *,
        backend: str,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._backend = backend
        self._pause_s = pause_s
        self._clock = clock
        self._asked: float | None = None

    def ask(self) -> bool:
        """Ask for a restart; return whether that was done."""
        now = self._clock()
        if self._asked is not None and now - self._asked < self._pause_s:
            return False
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()
        except OSError as error:
            log.backend_event(
                "revival_failed",
                backend=self._backend,
                level=logging.ERROR,
                why=f"{self._file} cannot be made ({error.strerror}): restart the backend yourself",
            )
            return False
        self._asked = now
        metrics.REVIVALS.labels(backend=self._backend).inc()
        log.backend_event(
            "revival", backend=self._backend, level=logging.WARNING, file=str(self._file)
        )
        return True
