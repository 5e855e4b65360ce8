"""What a master leaves to the program that it becomes: its listening sockets and its workers.

An exec keeps the process, and with it the children and every descriptor that is inheritable. What
they are is told in an environment variable. The version before wrote it: fields may be added, not
changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

_VARIABLE = "HEARTCODE_INHERITED"


class Descriptor(Protocol):
    """Something with a file descriptor."""

    def fileno(self) -> int:
        """Return the file descriptor."""


class Heartbeat:
    """The file by which a worker shows that it lives; as gunicorn's `WorkerTmp`, for the master."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def last_update(self) -> float:
        """Return when the worker lived, in seconds of the monotonic clock."""
        return os.fstat(self._descriptor).st_mtime

    def close(self) -> None:
        """Close the file; to be called once."""
        os.close(self._descriptor)


class WorkerLike(Protocol):
    """What a master has to know of a worker, one that it has forked itself or an inherited one."""

    pid: int
    age: int
    metrics_seat: int
    grace_s: float
    retired: bool
    aborted: bool
    tmp: Any


@dataclass(kw_only=True)
class InheritedWorker:
    """A worker that the program before has forked. It counts with gunicorn's own."""

    pid: int
    age: int
    metrics_seat: int
    grace_s: float
    retired: bool
    tmp: Heartbeat
    aborted: bool = False

    def __str__(self) -> str:
        return f"<Worker {self.pid}>"


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """The descriptors of the listening sockets, the workers, and the order that is carried out."""

    listeners: tuple[int, ...] = ()
    workers: tuple[InheritedWorker, ...] = ()
    order: str = ""


def pass_on(
    listeners: Iterable[Descriptor], workers: Iterable[WorkerLike], *, order: str
) -> dict[str, str]:
    """Let the descriptors outlive an exec; return what its environment must hold besides."""
    listeners, workers = list(listeners), list(workers)
    for descriptor in (*listeners, *(worker.tmp for worker in workers)):
        os.set_inheritable(descriptor.fileno(), True)  # noqa: FBT003 - it takes no keyword
    told = {
        "master": os.getpid(),
        "order": order,
        "listeners": [listener.fileno() for listener in listeners],
        "workers": [
            {
                "pid": worker.pid,
                "age": worker.age,
                "metrics_seat": worker.metrics_seat,
                "grace_s": worker.grace_s,
                "retired": worker.retired,
                "heartbeat": worker.tmp.fileno(),
            }
            for worker in workers
        ],
    }
    return {_VARIABLE: json.dumps(told)}


def inherit(environment: MutableMapping[str, str]) -> Inheritance:
    """Return what the program before has left to this process, and let no other one inherit it."""
    told = json.loads(environment.pop(_VARIABLE, "{}"))
    if told.get("master") != os.getpid():
        return Inheritance()
    return Inheritance(
        listeners=tuple(told["listeners"]),
        workers=tuple(_worker(fields) for fields in told["workers"]),
        order=told["order"],
    )


def _worker(fields: dict[str, Any]) -> InheritedWorker:
    return InheritedWorker(
        pid=fields["pid"],
        age=fields["age"],
        metrics_seat=fields["metrics_seat"],
        grace_s=fields["grace_s"],
        retired=fields["retired"],
        tmp=Heartbeat(fields["heartbeat"]),
    )
