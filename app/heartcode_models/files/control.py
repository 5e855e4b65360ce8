"""What a person's machine does for both the command and the roles."""

from pathlib import Path

from heartcode_models.cache import cache_directory
from heartcode_models.catalogue.entries import HubFile
from heartcode_models.catalogue.lock import LockFile, Pin
from heartcode_models.errors import SourceError
from heartcode_models.files.hub import Hub
from heartcode_models.files.place import Place, Verified
from heartcode_models.files.progress import Progress
from heartcode_models.files.transfer import Transfer


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
        raise SourceError(f"{file.repository}: {error}") from None


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
