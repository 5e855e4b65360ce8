"""Downloaded Debian packages, kept from one fleet to the next.

The machines cannot share one archive directory: apt locks it (fcntl on ``archives/lock``), and with
one kernel under all machines that lock would stop them from installing side by side. So each has
its own, filled from the cache when the machine is made and harvested when it ends.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

ARCHIVES = Path("var/cache/apt/archives")


def cache_of(cache: Path, suite: str) -> Path:
    """Where the packages of one Debian release are kept."""
    return cache / "apt" / suite


def fill(root: Path, store: Path) -> int:
    """Put the kept packages into a machine's root; gives their number."""
    return _give(store.glob("*.deb"), root / ARCHIVES)


def harvest(root: Path, store: Path) -> int:
    """Keep what a machine downloaded, running or not; gives the number of new packages.

    apt renames a package to ``*.deb`` only when it is whole and verified.
    """
    return _give((root / ARCHIVES).glob("*.deb"), store)


def _give(packages: Iterable[Path], target: Path) -> int:
    target.mkdir(parents=True, exist_ok=True)
    given = 0
    for package in sorted(packages):
        with contextlib.suppress(FileNotFoundError):  # the machine's apt may delete it just now
            given += _link_or_copy(package, target / package.name)
    return given


def _link_or_copy(source: Path, target: Path) -> bool:
    if target.exists() or source.is_symlink():
        return False
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    return True
