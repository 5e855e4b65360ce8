"""What a person's machine does for both the command and the roles."""

from pathlib import Path

from cachedir import cache_directory

from modellib.catalogue import HubFile
from modellib.errors import ModelError, SourceError
from modellib.hub import Hub
from modellib.lock import LockFile, Pin
from modellib.place import Place, Verified
from modellib.progress import Progress
from modellib.transfer import Transfer


def pinned(hub: Hub, lock: LockFile, file: HubFile, *, update: bool = False) -> tuple[Pin, bool]:
    """What a file must be, and whether the lock said so (else the hub did).

    Raises:
        ModelError: neither tells.
    """
    if not update and (pin := lock.get(file)):
        return pin, True
    try:
        return hub.ask(file), False
    except SourceError as error:
        raise ModelError(f"{file.repository}: {error}") from None


def verified_files() -> Verified:
    """Which files of this machine have been read."""
    return Verified(cache_directory() / "verified")


def local_place(directory: Path, progress: Progress) -> Place:
    """A directory of models on the machine of a person."""
    return Place(
        directory=directory,
        verified=verified_files(),
        progress=progress,
        transfer=Transfer(progress),
    )
