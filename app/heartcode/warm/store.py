"""The files of conversations, and what is known of each.

    store = Store.open(directory, limit_bytes=8 * 2**30, keep_s=86400)
    name = store.new_name()            # llama-server writes {name}.part
    entry = store.commit(name, key=key, sequence=sequence, tokens=2584, size=32_000_000)
    store.add(entry)
    store.secure(entry)
    found = store.best(key, prompt)
    store.is_intact(found.entry)       # before anybody relies on it

A conversation is two files: `{name}.kv`, as llama-server has written it, and `{name}.json`, which
says what it belongs to, how long it is and its hash, and is written when the other one is safe on
the disk. What has no such word beside it is the rest of something that was broken off, and goes.
The word is sealed with the store's secret, so that one that was cut or changed is none.

Several processes may share a directory, as two workers do during a reload: names are random, and
each finds what the others have written when it looks (`refresh()`).
"""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import time
from array import array
from base64 import b64decode, b64encode
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from io import FileIO
from pathlib import Path

from heartcode.routing.known_sequence import KnownSequence, first_of
from heartcode.routing.prompt_hash import MAX_BLOCKS, SECRET_BYTES, Prompt
from heartcode.warm import sealed
from heartcode.warm.sealed import SealError

#: How many conversations are kept at most.
MAX_ENTRIES = 512
#: What the file system keeps free for others, bytes.
LEFT_FREE = 1024**3

# Longer than any save takes: what is as old as this and has no word beside it was broken off.
_ORPHAN_S = 900.0
_PIECE_BYTES = 1024**2
_DIGEST_BYTES = 32
_SECRET_FILE = "secret"  # noqa: S105 - its name


class StoreError(Exception):
    """The directory, or a file in it, is of no use; says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A conversation in a file.

    Attributes:
        name: of its files, without their endings.
        key: what its state belongs to, see `key`.
        sequence: what it holds.
        tokens: how many.
        size: of its file, bytes.
        digest: BLAKE2b of that.
    """

    name: str
    key: str
    sequence: KnownSequence
    tokens: int
    size: int
    digest: str

    @property
    def file(self) -> str:
        """The name of the file with the state."""
        return f"{self.name}.kv"


@dataclass(frozen=True, kw_only=True)
class Found:
    """An entry, and how many characters of a prompt it holds."""

    entry: Entry
    chars: int


class Store:
    """The conversations in one directory.

    Args:
        directory: it exists.
        secret: of the hashes of prompts.
        limit_bytes: what all files may have together.
        keep_s: after how many seconds without use a conversation is deleted.
        clock: wall time.
    """

    def __init__(
        self,
        directory: Path,
        secret: bytes,
        *,
        limit_bytes: int,
        keep_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.secret = secret
        self._directory = directory
        self._limit = limit_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._used: dict[str, float] = {}
        # By key and first block, so that a prompt is compared with what begins as it does.
        self._alike: dict[tuple[str, int | None], dict[str, Entry]] = {}
        self._unsecured: set[str] = set()
        self._seen = -1
        self.refresh()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        limit_bytes: int,
        keep_s: float,
        clock: Callable[[], float] = time.time,
    ) -> Store:
        """Return the store in `directory`, which is made if it has to be.

        Raises:
            StoreError: it cannot be used.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if directory.stat().st_uid != os.geteuid():
                raise StoreError(f"{directory} belongs to another user")
            directory.chmod(0o700)
            secret = _secret(directory / _SECRET_FILE)
            return cls(directory, secret, limit_bytes=limit_bytes, keep_s=keep_s, clock=clock)
        except OSError as error:
            raise StoreError(str(error)) from error

    @property
    def size(self) -> int:
        """Bytes of all conversations."""
        return sum(entry.size for entry in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def new_name(self) -> str:
        """Return a name that no file has."""
        return secrets.token_hex(16)

    def part(self, name: str) -> str:
        """Return the name of the file that llama-server is to write."""
        return f"{name}.part"

    def discard(self, name: str) -> None:
        """Remove what llama-server has written, all or a part of it."""
        self._unlink(f"{name}.part")

    def room_for(self, size: int) -> bool:
        """Return whether there is room for a file of `size` bytes; the oldest make room for it."""
        if size > self._limit:
            return False
        self._shrink(self._limit - size, MAX_ENTRIES - 1)
        while self._free() < size + LEFT_FREE:
            if not self._entries:
                return False
            self.drop(self._oldest())
        return True

    def commit(
        self, name: str, *, key: str, sequence: KnownSequence, tokens: int, size: int
    ) -> Entry:
        """Take what llama-server has written as `part(name)`; reads all of it.

        It is not known to the store before `add()`, so that this can be done in a thread, and is
        nothing to others, or after an end of this process, before `secure()`.

        Raises:
            StoreError: it is not there, or not whole.
        """
        try:
            digest = self._taken(f"{name}.part", size)
            entry = Entry(
                name=name, key=key, sequence=sequence, tokens=tokens, size=size, digest=digest
            )
            self._path(f"{name}.part").rename(self._path(entry.file))
        except (OSError, StoreError) as error:
            self._remove(name)
            raise StoreError(str(error)) from error
        return entry

    def secure(self, entry: Entry) -> None:
        """Let a conversation outlive this process and the host's power; takes as long as the disk.

        It may be done in a thread.

        Raises:
            StoreError: it cannot be.
        """
        try:
            descriptor = os.open(self._path(entry.file), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._write_word(entry)
        except OSError as error:
            self._remove(entry.name)
            raise StoreError(str(error)) from error
        self._unsecured.discard(entry.name)
        # It may have made room for another one in the meantime.
        if entry.name not in self._entries:
            self._remove(entry.name)

    def add(self, entry: Entry) -> None:
        """Know a conversation; those that it goes on with are not needed any more."""
        self._unsecured.add(entry.name)
        self._know(entry, self._clock())
        for other in tuple(self._alike[entry.key, entry.sequence.first].values()):
            if other is not entry and entry.sequence.goes_on_with(other.sequence):
                self.drop(other)
        self._shrink(self._limit, MAX_ENTRIES)

    def best(self, key: str, prompt: Prompt) -> Found | None:
        """Return what holds most of `prompt`, the smallest of several; None if nothing does."""
        alike = self._alike.get((key, first_of(prompt.blocks)), {}).values()
        found = [Found(entry=each, chars=each.sequence.shared_with(prompt)) for each in alike]
        best = max(found, key=lambda one: (one.chars, -one.entry.size), default=None)
        return best if best and best.chars else None

    def is_there(self, entry: Entry) -> bool:
        """Return whether the file has its length: what was deleted or cut is found at once."""
        with suppress(OSError):
            found = self._path(entry.file).lstat()
            return stat.S_ISREG(found.st_mode) and found.st_size == entry.size
        return False

    def is_intact(self, entry: Entry) -> bool:
        """Return whether the file is as it was written; reads all of it."""
        with suppress(OSError), self._path(entry.file).open("rb", buffering=0) as file:
            return self.is_there(entry) and hmac.compare_digest(_digest(file), entry.digest)
        return False

    def touch(self, entry: Entry) -> None:
        """Note that a conversation was used."""
        self._used[entry.name] = self._clock()
        with suppress(OSError):
            os.utime(self._path(f"{entry.name}.json"))

    def drop(self, entry: Entry) -> None:
        """Delete a conversation."""
        self._forget(entry)
        self._remove(entry.name)

    def refresh(self) -> None:
        """See what others have written or deleted; delete what is too old or too much."""
        changed = self._directory.stat().st_mtime_ns
        if changed != self._seen:
            self._seen = changed
            self._look()
        now = self._clock()
        for entry in tuple(self._entries.values()):
            if now - self._used[entry.name] > self._keep_s:
                self.drop(entry)
        self._shrink(self._limit, MAX_ENTRIES)

    # --- what is known -------------------------------------------------------------------------

    def _know(self, entry: Entry, used: float) -> None:
        self._entries[entry.name] = entry
        self._used[entry.name] = used
        self._alike.setdefault((entry.key, entry.sequence.first), {})[entry.name] = entry

    def _forget(self, entry: Entry) -> None:
        self._entries.pop(entry.name, None)
        self._used.pop(entry.name, None)
        self._unsecured.discard(entry.name)
        alike = self._alike.get((entry.key, entry.sequence.first), {})
        alike.pop(entry.name, None)
        if not alike:
            self._alike.pop((entry.key, entry.sequence.first), None)

    def _oldest(self) -> Entry:
        return min(self._entries.values(), key=lambda entry: self._used[entry.name])

    def _shrink(self, size: int, count: int) -> None:
        while self._entries and (self.size > size or len(self._entries) > count):
            self.drop(self._oldest())

    def _look(self) -> None:
        found = {path.name: path for path in self._directory.iterdir()}
        for entry in tuple(self._entries.values()):
            has_word = f"{entry.name}.json" in found or entry.name in self._unsecured
            if not has_word or entry.file not in found:
                self._forget(entry)
        for path in found.values():
            if path.suffix == ".json" and path.stem not in self._entries:
                told = self._read_word(path)
                if told is not None and self.is_there(told):
                    with suppress(OSError):
                        self._know(told, path.stat().st_mtime)
        self._remove_orphans(found)

    def _remove_orphans(self, found: dict[str, Path]) -> None:
        for path in found.values():
            if path.suffix not in (".kv", ".part", ".json") or path.stem in self._entries:
                continue
            with suppress(OSError):
                if self._clock() - path.stat().st_mtime > _ORPHAN_S:
                    path.unlink()

    # --- files -----------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._directory / name

    def _free(self) -> int:
        try:
            found = os.statvfs(self._directory)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def _unlink(self, name: str) -> None:
        with suppress(OSError):
            self._path(name).unlink()

    def _remove(self, name: str) -> None:
        # The word first: a state without it is nothing.
        for ending in ("json", "json.part", "kv", "part"):
            self._unlink(f"{name}.{ending}")

    def _taken(self, name: str, size: int) -> str:
        """Return the hash of a file, which is for its owner alone from now on."""
        path = self._path(name)
        # llama-server runs as the same user and leaves what its umask says.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - it is open
            os.fchmod(descriptor, 0o600)
            if os.fstat(descriptor).st_size != size:
                raise StoreError("it is not as long as llama-server says")
            return _digest(file)

    def _write_word(self, entry: Entry) -> None:
        sequence = entry.sequence
        told = {
            "key": entry.key,
            "tokens": entry.tokens,
            "size": entry.size,
            "digest": entry.digest,
            "prompt_chars": sequence.prompt_chars,
            "answer_chars": sequence.answer_chars,
            "open_ended": sequence.open_ended,
            "blocks": b64encode(sequence.blocks.tobytes()).decode(),
        }
        sealed.write(self._path(f"{entry.name}.json"), told, key=self.secret)

    def _read_word(self, path: Path) -> Entry | None:
        try:
            told = sealed.read(path, key=self.secret)
            blocks = array("q", b64decode(told["blocks"]))
            sequence = KnownSequence(blocks[:MAX_BLOCKS], told["prompt_chars"], told["open_ended"])
            sequence.answer_chars, sequence.tokens = told["answer_chars"], told["tokens"]
            return Entry(
                name=path.stem,
                key=told["key"],
                sequence=sequence,
                tokens=told["tokens"],
                size=told["size"],
                digest=told["digest"],
            )
        except (OSError, SealError, ValueError, LookupError, TypeError):
            return None


def _digest(file: FileIO) -> str:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    while piece := file.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _secret(path: Path) -> bytes:
    """Return the secret in a file, which is made if it is not there.

    Raises:
        StoreError: the file holds none.
    """
    with suppress(FileExistsError):
        # Whole or not at all: another process may look at the same time.
        part = path.with_name(f"{path.name}.{secrets.token_hex(8)}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - it is open
                file.write(secrets.token_bytes(SECRET_BYTES))
                file.flush()
                os.fsync(descriptor)
            if not path.exists():
                os.link(part, path)
        finally:
            part.unlink()
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise StoreError(f"{path} holds no secret; delete it, and with it goes what was saved")
    return secret
