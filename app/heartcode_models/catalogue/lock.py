"""The pins, ``models/lock.json``: what each file of the hub must be, for good.

The first download writes the commit, the size and the SHA-256 that the hub told and that the bytes
had; every later one must match. The file belongs into version control.
"""

import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heartcode_models.catalogue.entries import MODELS, HubFile
from heartcode_models.errors import ModelError

LOCK = MODELS / "lock.json"

SHA256 = re.compile(r"[0-9a-f]{64}")
_VERSION = 1
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, kw_only=True)
class Pin:
    """What a file is.

    Attributes:
        asked: The revision that the catalogue named.
        commit: The commit that it was then.
        sha256: Of the whole file, in hexadecimal digits.
        size: Bytes.
    """

    asked: str
    commit: str
    sha256: str
    size: int


class LockFile:
    """The pins in one file."""

    def __init__(self, path: Path = LOCK) -> None:
        self.path = path

    def get(self, file: HubFile) -> Pin | None:
        """The pin of a file, or None where there is none yet.

        Raises:
            ModelError: the lock file is broken, or the catalogue has come to name another revision.
        """
        fields = self._read().get(_key(file))
        if fields is None:
            return None
        pin = self._pin(_key(file), fields)
        if pin.asked != file.revision:
            raise ModelError(
                f"{self.path} pins {_key(file)} from the revision '{pin.asked}', and the catalogue"
                f" names '{file.revision}'. Pin it anew: scripts/download_model.sh ... --update"
            )
        return pin

    def put(self, file: HubFile, pin: Pin) -> bool:
        """Record a pin; tells whether that changed the file."""
        with self._alone():
            files = self._read()
            if files.get(_key(file)) == asdict(pin):
                return False
            files[_key(file)] = asdict(pin)
            text = json.dumps({"version": _VERSION, "files": files}, indent=2, sort_keys=True)
            part = self.path.with_name(f"{self.path.name}.part")
            try:
                part.write_text(text + "\n", encoding="utf-8")
                part.replace(self.path)
            except OSError as error:
                raise ModelError(f"{self.path}: cannot be written: {error.strerror}") from None
        return True

    def _read(self) -> dict[str, Any]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise self._broken(f"is no JSON: {error}") from None
        if not isinstance(data, dict) or data.get("version") != _VERSION:
            raise self._broken(f"is not of version {_VERSION}")
        files = data.get("files")
        if not isinstance(files, dict):
            raise self._broken("has no table 'files'")
        return files

    def _pin(self, key: str, fields: Any) -> Pin:
        try:
            pin = Pin(**fields)
            whole = (
                isinstance(pin.asked, str)
                and bool(_COMMIT.fullmatch(pin.commit))
                and bool(SHA256.fullmatch(pin.sha256))
                and type(pin.size) is int
                and pin.size > 0
            )
        except TypeError:
            whole = False
        if not whole:
            raise self._broken(f"has no usable pin for {key}")
        return pin

    def _broken(self, why: str) -> ModelError:
        return ModelError(f"{self.path} {why}; restore it from version control")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two downloads that end together do not lose each other's pin."""
        try:
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)


def is_commit(text: str) -> bool:
    """Whether a revision is a commit, which never changes."""
    return bool(_COMMIT.fullmatch(text))


def _key(file: HubFile) -> str:
    return f"{file.repository}/{file.path}"
