"""A directory of models: what is there, whether it is right, and how what is missing gets there."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from heartcode_models.errors import ModelError, SourceError
from heartcode_models.files.part import PartFile, part_path
from heartcode_models.files.progress import Progress
from heartcode_models.files.transfer import Source, Transfer
from heartcode_models.gguf.check import check_gguf
from heartcode_models.units import gigabytes

#: Stays free on a disk that gets a model: journals and updates need room too.
RESERVE = 256 * 1000 * 1000
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A file as it must be: name, SHA-256 in hexadecimal digits, bytes."""

    name: str
    sha256: str
    size: int


class Verified:
    """Remembers which files have been read and what their SHA-256 was.

    Reading 5 GB takes a rig's disk half a minute, so a file is read again only when its size, time
    or inode have changed. Where nothing can be remembered, it is read each time.

    Args:
        directory: Where the notes lie.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def sha256(self, path: Path) -> str:
        """The SHA-256 of a file.

        Raises:
            ModelError: it cannot be read.
        """
        try:
            stamp = _stamp(path)
            note = self._note(path)
            if note.is_file():
                known = json.loads(note.read_text(encoding="utf-8"))
                if known["stamp"] == stamp:
                    return str(known["sha256"])
        except (ValueError, TypeError, KeyError):
            pass  # a note that was cut off is no note
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
        digest = _read(path)
        self.remember(path, digest)
        return digest

    def remember(self, path: Path, sha256: str) -> None:
        """Note what a file was found to be."""
        note = self._note(path)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            part = note.with_suffix(f".{os.getpid()}.part")
            part.write_text(json.dumps({"stamp": _stamp(path), "sha256": sha256}))
            part.replace(note)
        except OSError:
            return  # it only costs time

    def _note(self, path: Path) -> Path:
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()
        return self._directory / f"{name[:24]}.json"


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class Place:
    """A directory of models on this machine.

    Attributes:
        directory: Is made if it is not there.
        verified: Which files are known to be right.
        progress: Is told how far a download is.
        transfer: Brings the bytes.
        free: Bytes that a user may still write below a directory.
    """

    directory: Path
    verified: Verified
    progress: Progress
    transfer: Transfer
    free: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free

    def holds(self, wanted: Wanted) -> bool:
        """Whether the file is there as it must be."""
        path = self.directory / wanted.name
        if not path.is_file() or path.stat().st_size != wanted.size:
            return False
        return self.verified.sha256(path) == wanted.sha256

    def fetch(self, wanted: Wanted, sources: Sequence[Source]) -> Source | None:
        """Have the file in the directory, from the first source that has it.

        Gives:
            The source that it came from, None where it was there.

        Raises:
            ModelError: there is no room, or no source has it; what is there is as it was before.
        """
        if self.holds(wanted):
            return None
        place = self.directory / wanted.name
        self._prepare(wanted)
        if place.exists():
            self.progress.say(
                f"{place} is another file ({gigabytes(place.stat().st_size)}); it is replaced when"
                " the right one is complete"
            )
        with PartFile(place, wanted.sha256) as part:
            source = self._fill(part, wanted, sources)
            try:
                check_gguf(part.path)
            except ModelError:
                part.discard()  # it is what was asked for, and of no use
                raise
            part.become_whole()
        self.verified.remember(place, wanted.sha256)
        return source

    def _prepare(self, wanted: Wanted) -> None:
        """Look for room before the first byte."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            part = part_path(self.directory / wanted.name, wanted.sha256)
            there = min(part.stat().st_size, wanted.size) if part.is_file() else 0
            free = self.free(self.directory)
        except OSError as error:
            raise ModelError(f"{self.directory}: cannot be used: {error.strerror}") from None
        missing = wanted.size - there
        if free < missing + RESERVE:
            raise ModelError(
                f"{self.directory} has {gigabytes(free)} free; {wanted.name} needs"
                f" {gigabytes(missing)}{' more' if there else ''}, and {gigabytes(RESERVE)} shall"
                " stay free. Make room there, or name another directory"
            )

    def _fill(self, part: PartFile, wanted: Wanted, sources: Sequence[Source]) -> Source:
        self.progress.begin(wanted.name, wanted.size, 0)
        try:
            part.read_again(self.progress.update)
            if part.size > wanted.size:
                part.restart()
            reasons = []
            for source in sources:
                try:
                    self._verified_fill(part, wanted, source)
                except SourceError as error:
                    reasons.append(f"{source.url}: {error}")
                    self.progress.say(reasons[-1])
                else:
                    return source
        finally:
            self.progress.end()
        kept = f"\n{gigabytes(part.size)} are kept: the next run goes on from there" * bool(
            part.size
        )
        if not part.size:
            part.discard()
        raise SourceError(f"{wanted.name} cannot be had:\n" + "\n".join(reasons) + kept)

    def _verified_fill(self, part: PartFile, wanted: Wanted, source: Source) -> None:
        """Fill the part and compare it; what an earlier run left may be what is wrong with it."""
        inherited = part.size > 0
        self.transfer.fill(part, wanted.size, source)
        found = part.sha256()
        if found != wanted.sha256 and inherited:
            self.progress.say("what was there before is damaged: starting from zero")
            part.restart()
            self.progress.update(0)
            self.transfer.fill(part, wanted.size, source)
            found = part.sha256()
        if found == wanted.sha256:
            return
        part.restart()
        raise SourceError(
            f"what came has the SHA-256 {found}, and it must be {wanted.sha256}; it is thrown away."
            " Something on the way changes it, or the file was replaced"
        )
