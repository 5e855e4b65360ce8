"""Whether a mirror has what the rigs need, as metrics for the node exporter."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heartcode_models.errors import ModelError
from heartcode_models.files.host import holds

#: The node exporter is another user.
_MODE = 0o644


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file of the mirror: whether it is right, its size in bytes and the one it must have."""

    file: str
    up: bool
    size: int
    expected: int


#: Name, meaning and value of each metric; heartcode.exporter.readings has the same.
_METRICS: Sequence[tuple[str, str, Callable[[_Found], int]]] = (
    (
        "model_mirror_file_up",
        "1 if the mirror has the file as the rigs need it, by size and SHA-256.",
        lambda found: int(found.up),
    ),
    (
        "model_mirror_file_size_bytes",
        "Size that the file has in the mirror; 0 if it is not there.",
        lambda found: found.size,
    ),
    (
        "model_mirror_file_expected_size_bytes",
        "Size that the file must have.",
        lambda found: found.expected,
    ),
)


def measure(manifest: Path, metrics: Path) -> None:
    """Look at every file that a mirror must have, and write what is found.

    Args:
        manifest: JSON, as the role model_mirror writes it: ``directory``, ``notes`` (see
            `host.holds`) and ``files``, each with ``file``, ``size`` and ``sha256``.
        metrics: Where the metrics go, in Prometheus' text format; replaced as a whole.

    Raises:
        ModelError: the manifest cannot be read, or the metrics not written.
    """
    try:
        found = list(_found(json.loads(manifest.read_text(encoding="utf-8"))))
    except OSError as error:
        raise ModelError(f"{manifest}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{manifest}: is no manifest of a mirror: {error!r}") from None
    try:
        _replace(metrics, "".join(_lines(found)))
    except OSError as error:
        raise ModelError(f"{metrics}: cannot be written: {error.strerror}") from None


def _found(manifest: Mapping[str, Any]) -> Iterator[_Found]:
    common = {"directory": manifest["directory"], "notes": manifest["notes"]}
    for wanted in manifest["files"]:
        path = Path(manifest["directory"]) / wanted["file"]
        try:
            up = holds(common | wanted)
        except ModelError as error:  # a disk that fails is what is to be told
            print(error, file=sys.stderr)
            up = False
        yield _Found(file=wanted["file"], up=up, size=_size(path), expected=wanted["size"])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _lines(found: Sequence[_Found]) -> Iterator[str]:
    for name, meaning, value in _METRICS:
        yield f"# HELP {name} {meaning}\n# TYPE {name} gauge\n"
        for each in found:
            # No quote or backslash is in a name: see FILE_NAME in catalogue.entries.
            yield f'{name}{{file="{each.file}"}} {value(each)}\n'


def _replace(path: Path, text: str) -> None:
    # Beside it, under a name that the collector does not read.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False) as part:
        part.write(text)
    Path(part.name).chmod(_MODE)
    Path(part.name).replace(path)
