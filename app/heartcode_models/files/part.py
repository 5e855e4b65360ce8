"""A file that is not whole yet: it lies beside its place, named after what it shall become."""

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from heartcode_models.errors import BusyError, ModelError

_PIECE = 1 << 20
_NAMED_DIGITS = 12


class PartFile:
    """Bytes from the beginning on, with their SHA-256 so far.

    Its name holds the hash that it shall have, so that the rest of one file is never put behind
    the beginning of another, and whichever source it came from, any other can go on. Use it as a
    context: the file is locked meanwhile, and stays on the disk when the context ends.

    Args:
        place: Where the whole file will be.
        sha256: What it will have.

    Raises:
        BusyError: another process is at it.
        ModelError: it cannot be written.
    """

    def __init__(self, place: Path, sha256: str) -> None:
        self.path = part_path(place, sha256)
        self.size = 0
        self._place = place
        self._hash = hashlib.sha256()
        try:
            # Appending: what is there must not be lost if the lock is another's.
            self._file: BinaryIO = self.path.open("a+b", buffering=0)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BusyError(f"{self.path} is being downloaded by another process") from None
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be written: {error.strerror}") from None
        if not self._is_at_its_path():
            self._file.close()
            raise BusyError(f"another process has just ended with {self.path}; run this again")

    def __enter__(self) -> "PartFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def _is_at_its_path(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False

    def read_again(self, told: Callable[[int], None]) -> None:
        """Hash what an earlier run left; `told` hears how far it is."""
        self._file.seek(0)
        while piece := self._file.read(_PIECE):
            self._hash.update(piece)
            self.size += len(piece)
            told(self.size)

    def write(self, piece: bytes) -> None:
        """Append a piece.

        Raises:
            ModelError: the disk does not take it.
        """
        try:
            written = 0
            while written < len(piece):
                written += self._file.write(memoryview(piece)[written:])
        except OSError as error:
            # What has been written must be what has been hashed.
            self._file.truncate(self.size)
            raise ModelError(
                f"{self.path}: cannot be written: {error.strerror}. Make room and run this again:"
                " it goes on from here"
            ) from None
        self._hash.update(piece)
        self.size += len(piece)

    def restart(self) -> None:
        """Throw away what there is."""
        self._file.truncate(0)
        self._hash = hashlib.sha256()
        self.size = 0

    def sha256(self) -> str:
        """Of the bytes so far."""
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def become_whole(self) -> None:
        """Bring it to the disk and then to its place, in one step for whoever looks there."""
        os.fsync(self._file.fileno())
        self.path.chmod(0o644)
        self.path.replace(self._place)
        directory = os.open(self._place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def part_path(place: Path, sha256: str) -> Path:
    """Where the part of a file lies."""
    return place.with_name(f"{place.name}.{sha256[:_NAMED_DIGITS]}.part")
