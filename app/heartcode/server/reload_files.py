"""What passes between `systemctl reload` and the proxy that runs: two files in its run directory.

`reload.json` is an order: the program, the directory and the environment that the proxy's master
shall go on with. `proxy.json` says which process the master is and how its last order ended. Both
are read by the version before or after the one that wrote them: fields may be added, not changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_ORDER = "reload.json"
_STATE = "proxy.json"


@dataclass(frozen=True, kw_only=True)
class Order:
    """Go on as `command` in `directory` with `environment`."""

    id: str
    command: list[str]
    directory: str
    environment: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class State:
    """The master's process id; the last order that it carried out, or why it could not."""

    master: int
    order: str = ""
    error: str = ""


def give(run_dir: Path, order: Order) -> None:
    """Leave an order for the master; a signal makes it look."""
    _write(run_dir / _ORDER, asdict(order))


def take(run_dir: Path) -> Order | None:
    """Return the order that was left, if there is one, and remove it.

    Raises:
        ValueError: it cannot be read.
    """
    file = run_dir / _ORDER
    fields = _read(file)
    if fields is None:
        return None
    file.unlink(missing_ok=True)
    known = _known(Order, fields)
    if len(known) < len(Order.__dataclass_fields__):
        raise ValueError(f"{file} is not an order")
    return Order(**known)


def report(run_dir: Path, state: State) -> None:
    """Say how it stands."""
    _write(run_dir / _STATE, asdict(state))


def state(run_dir: Path) -> State | None:
    """Return what the master has said last; None if no master uses this directory."""
    fields = _read(run_dir / _STATE)
    return State(**_known(State, fields)) if fields and "master" in fields else None


def forget(run_dir: Path) -> None:
    """Remove both files: the master ends."""
    for name in (_ORDER, _STATE):
        (run_dir / name).unlink(missing_ok=True)


def _known(kind: type[Order | State], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in kind.__dataclass_fields__}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        fields = json.loads(file.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(fields, dict):
        raise ValueError(f"{file} holds no JSON object")  # noqa: TRY004 - the content is wrong
    return fields


def _write(file: Path, fields: Mapping[str, Any]) -> None:
    """Put the file there as a whole; an environment is nobody else's business."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        json.dump(fields, stream)
    part.replace(file)
