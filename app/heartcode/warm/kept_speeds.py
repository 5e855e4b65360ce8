"""What was learnt of each backend's speed, in a file that outlives the proxy.

    speeds = KeptSpeeds(directory, {backend: ["GPU-1", 2, 310.5]})
    speeds.recall()    # in the process that serves, before the first request
    speeds.keep()      # every now and then
    speeds.finish()    # at the end
    speeds.retire()    # another process learns from now on

What was learnt holds for what it was learnt of: the backend's model file, quantisation, context and
KV cache, as it says itself (see `key`), and the settings that are given here. Where one of these is
another one, nothing is taken over; and where that changes while the proxy runs, it learns anew.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import gevent

from heartcode.routing.backend import Backend
from heartcode.telemetry import log
from heartcode.warm import sealed
from heartcode.warm.key import state_key
from heartcode.warm.sealed import SealError

#: The file's name.
FILE = "speeds.json"

_VERSION = 1
# What a process that is killed has learnt in vain at most. The file has 2 KB.
_PAUSE_S = 30.0
_KEY_BYTES = 16
_ABSURD = 1e12


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What was learnt of a backend, and what it was learnt of."""

    key: str
    learnt: Mapping[str, tuple[float, float]]

    @classmethod
    def of(cls, told: Any) -> _Record:
        """Read one.

        Raises:
            SealError: it is none.
        """
        try:
            learnt = {str(name): _sums(pair) for name, pair in told["learnt"].items()}
            return cls(key=str(told["of"]), learnt=learnt)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SealError("it says nothing of a backend's speed") from error

    def told(self) -> dict[str, Any]:
        """Return it for the file."""
        return {"of": self.key, "learnt": self.learnt}


class KeptSpeeds:
    """The speeds of a rig's backends, in one file.

    Args:
        directory: it exists.
        settings: for each backend, the settings that its speed depends on; as JSON can have them.
        clock: seconds.
    """

    def __init__(
        self,
        directory: Path,
        settings: Mapping[Backend, object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = directory / FILE
        self._settings = dict(settings)
        self._clock = clock
        self._records: dict[str, _Record] = {}
        # Of those that have said what they are: what they are, and what was known of them then.
        self._begun: dict[Backend, _Record] = {}
        self._written: dict[str, _Record] = {}
        self._next = clock()
        self._fails = self._is_retired = False

    def recall(self) -> None:
        """Read the file; a backend goes on with what was learnt of it when it says what it is."""
        try:
            records = _records(sealed.read(self._path))
        except FileNotFoundError:
            records = {}
        except (OSError, SealError) as error:
            records = {}
            with suppress(OSError):
                self._path.unlink()
            log.backend_event(
                "speeds_dropped", backend="", level=logging.WARNING, why=f"{FILE}: {error}"
            )
        names = {backend.name for backend in self._settings}
        self._records = {name: one for name, one in records.items() if name in names}
        self._written = dict(self._records)
        for backend in self._settings:
            backend.served.when_noted = partial(self._has_said, backend)

    def keep(self) -> None:
        """Write what was learnt since, if that is some time ago."""
        if self._is_retired or self._clock() < self._next or not self._is_news():
            return
        self._next = self._clock() + _PAUSE_S
        records = dict(self._records)
        # The loop does not wait for the disk.
        self._note(gevent.get_hub().threadpool.apply(self._write, (records,)), records)

    def finish(self) -> None:
        """Write what was learnt since."""
        if not self._is_retired and self._is_news():
            self._note(self._write(self._records), self._records)

    def retire(self) -> None:
        """Write nothing any more."""
        self._is_retired = True

    def _has_said(self, backend: Backend) -> None:
        """Take what a backend says that it serves."""
        key = "" if backend.served.is_other else self._key(backend)
        before = self._begun.get(backend)
        if not key or (before is not None and key == before.key):
            return
        record = self._records.get(backend.name)
        if record is not None and record.key == key:
            backend.throughput.go_on_with(record.learnt)
            log.backend_event(
                "speeds_recalled",
                backend=backend.name,
                prompt=round(backend.throughput.prompt.value, 1),
                decode=round(backend.throughput.decode.value, 1),
            )
        elif before is not None:
            backend.throughput.start_anew()
        self._begun[backend] = _Record(key=key, learnt=backend.throughput.learnt())

    def _key(self, backend: Backend) -> str:
        served = backend.served
        if served.identity is None:
            return ""
        of = state_key(served.identity, kv_cache=served.kv_cache())
        parts = json.dumps([of, self._settings[backend]]).encode()
        return blake2b(parts, digest_size=_KEY_BYTES).hexdigest() if of else ""

    def _is_news(self) -> bool:
        """Take down what was learnt; return whether it is not in the file yet."""
        for backend, begun in self._begun.items():
            now = _Record(key=begun.key, learnt=backend.throughput.learnt())
            if now != begun:  # else no answer has told anything
                self._records[backend.name] = now
        return self._records != self._written

    def _write(self, records: Mapping[str, _Record]) -> str:
        """Write the file; return why that cannot be done, "" if it was."""
        backends = {name: record.told() for name, record in records.items()}
        try:
            sealed.write(self._path, {"version": _VERSION, "backends": backends})
        except OSError as error:
            return str(error)
        return ""

    def _note(self, why: str, records: Mapping[str, _Record]) -> None:
        if why and not self._fails:  # once, and not for every try
            log.backend_event("speeds_not_kept", backend="", level=logging.WARNING, why=why)
        self._fails = bool(why)
        if not why:
            self._written = dict(records)


def _records(told: Any) -> dict[str, _Record]:
    """Return what a file says of each backend.

    Raises:
        SealError: that is nothing of use.
    """
    version = told.get("version") if isinstance(told, dict) else None
    if version != _VERSION:
        raise SealError(f"it is of version {version}, not {_VERSION}")
    if not isinstance(told.get("backends"), dict):
        raise SealError("it says nothing of backends")
    return {name: _Record.of(one) for name, one in told["backends"].items()}


def _sums(pair: Any) -> tuple[float, float]:
    numerator, denominator = map(float, pair)
    if not (0 < numerator < _ABSURD and 0 < denominator < _ABSURD):  # false for "nan" too
        raise ValueError
    return numerator, denominator
