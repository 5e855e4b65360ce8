#!/usr/bin/python3
"""What a host serves with, kept so that it can be had again (docs/adr/0030)."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Ansible writes the arguments into these two lines and sends the file as it is (a "JSONARGS
# module"). With Ansible's module_utils a host would compile thousands of lines anew at each task.
# <<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>
ARGUMENTS = "<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>"

DOCUMENTATION = """
module: host_generation
short_description: Keep what a host serves with, and have it again
description:
  - A generation is all files and links that match C(paths), as one deployment has left them. Two
    are kept, that of the last deployment which ended well (C(serving)) and the one before.
  - In check mode nothing is written.
options:
  directory:
    description: Where they are kept, for root alone.
    type: path
    required: true
  paths:
    description: What belongs to a generation, as shell patterns of whole paths.
    type: list
    elements: str
    required: true
  do:
    description:
      - C(begin) keeps what is there as C(serving) where nothing is kept yet and C(when) is there.
      - C(look) tells where C(restore) would lead, and changes nothing.
      - C(restore) goes back to C(serving), or to the one before where the host is as C(serving)
        already. One that was interrupted goes on to where it was going, and one that has ended
        stays there until a deployment has ended.
      - C(settle) says that what was restored has been taken in.
      - C(record) keeps what is there as C(serving), and the former one as the one before.
    type: str
    choices: [begin, look, restore, settle, record]
    required: true
  only:
    description: For C(look) and C(restore), the one to go back to; nothing is done from any other.
    type: str
    choices: [serving]
  when:
    description: For C(begin), the file that tells that the host has been deployed before.
    type: path
  leave:
    description: Patterns of what C(restore) leaves to others; it makes their directories.
    type: list
    elements: str
"""

RETURN = """
target:
  description: Which generation C(look) and C(restore) are about, or "" if there is none.
  type: str
  returned: always
kept_at:
  description: When that was recorded, in UTC.
  type: str
  returned: always
tree:
  description: Where its files lie.
  type: str
  returned: always
paths:
  description: What differs there from what is on the host; all of it after an interruption.
  type: list
  elements: str
  returned: always
files:
  description: All that is in it.
  type: list
  elements: str
  returned: always
"""

#: Of a digest; 48 bits, and two are there at a time.
_NAME_LENGTH = 12
_INDEX = "index.json"

#: What is at a path: its mode and owner, then its content or where it points to.
Entry = tuple[str, ...]


class GenerationError(Exception):
    """A generation cannot be kept or had; the text says why."""


class Generations:
    """The generations of a host, in a directory for root alone.

    Args:
        directory: Where they lie.
        patterns: What belongs to one.
        root: The host's root directory; another one in tests.
    """

    def __init__(self, directory: Path, patterns: Sequence[str], root: Path = Path("/")) -> None:
        self._directory = directory
        self._patterns = [pattern.lstrip("/") for pattern in patterns]
        self._root = root
        self._index = self._read_index()

    @property
    def serving(self) -> str:
        """The name of the one that the last deployment has left, or ""."""
        return str(self._index.get("serving", ""))

    @property
    def before(self) -> str:
        """The name of the one before it, or ""."""
        return str(self._index.get("before", ""))

    def target(self, only: str | None = None) -> str:
        """Return which one to go back to, "" if there is none."""
        if only is None and (going := self._index.get("going_back")):
            return str(going)
        if only is None and self._name(self._root) == self.serving:
            return self.before
        return self.serving

    def tree(self, name: str) -> Path:
        """Return where its files lie."""
        return self._directory / name

    def kept_at(self, name: str) -> str:
        """Return when it was recorded."""
        return str(self._index.get("times", {}).get(name, ""))

    def entries(self, tree: Path) -> dict[str, Entry]:
        """Return what of a tree belongs to a generation, by the path under its root."""
        return {
            path: described(tree / path)
            for pattern in self._patterns
            for path in sorted(self._matching(tree, pattern))
        }

    def differing(self, name: str) -> list[str]:
        """Return the paths that are not on the host as they are in a generation.

        And those that were not when a way back to it began that has not ended: their services may
        not know them yet.
        """
        there, kept = self.entries(self._root), self.entries(self.tree(name))
        found = {"/" + path for path in there | kept if there.get(path) != kept.get(path)}
        return sorted(found.union(self._index.get("unsettled", {}).get(name, ())))

    def files(self, name: str) -> list[str]:
        """Return all paths of a generation."""
        return sorted("/" + path for path in self.entries(self.tree(name)))

    def record(self) -> bool:
        """Keep what is there; return whether that is another one than before."""
        name = self._name(self._root)
        # What served before this deployment: after a way back that is where it has led.
        went_back = str(self._index.get("going_back", ""))
        last = went_back or self.serving
        if name == last and not went_back:
            return False
        if name != last:
            self._keep(name)
        times = self._index.get("times", {})
        before = last if name != last else ""
        times = {kept: times[kept] for kept in (last, before) if kept in times}
        times.setdefault(name, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))
        self._write_index({"serving": name, "before": before, "times": times})
        self._forget_others()
        return True

    def restore(self, name: str, leave: Sequence[str] = ()) -> None:
        """Have all files of a generation, and none that it does not have, on the host.

        Those that match `leave` are left alone where the generation has them.
        """
        unsettled = {name: self.differing(name)}
        self._write_index(self._index | {"going_back": name, "unsettled": unsettled})
        self._put_all(name, leave)

    def put_back(self, name: str, leave: Sequence[str] = ()) -> None:
        """Do the same after a deployment that failed, which is no way back from `serving`."""
        self._write_index(self._index | {"unsettled": {name: self.differing(name)}})
        self._put_all(name, leave)

    def _put_all(self, name: str, leave: Sequence[str]) -> None:
        tree = self.tree(name)
        kept, there = self.entries(tree), self.entries(self._root)
        for path, entry in kept.items():
            place = self._root / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if there.get(path) != entry and not matches("/" + path, leave):
                put(tree / path, place)
        for path in there.keys() - kept.keys():
            (self._root / path).unlink()

    def settle(self) -> bool:
        """Note that what was restored has been taken in; return whether that was not known."""
        if not self._index.get("unsettled"):
            return False
        self._write_index({key: self._index[key] for key in self._index if key != "unsettled"})
        return True

    def _matching(self, tree: Path, pattern: str) -> Iterator[str]:
        # Not Path.glob: it finds no link whose target is elsewhere.
        for found in glob.iglob(pattern, root_dir=tree):  # noqa: PTH207
            path = tree / found
            if path.is_symlink() or path.is_file():
                yield found

    def _name(self, tree: Path) -> str:
        told = json.dumps(self.entries(tree), sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:_NAME_LENGTH]

    def _keep(self, name: str) -> None:
        if self.tree(name).exists():
            return
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=self._directory, prefix=".new."))
        try:
            for path in self.entries(self._root):
                (beside / path).parent.mkdir(parents=True, exist_ok=True)
                put(self._root / path, beside / path)
            beside.replace(self.tree(name))
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _forget_others(self) -> None:
        wanted = {self.serving, self.before, _INDEX}
        for path in self._directory.iterdir():
            if path.name not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def _read_index(self) -> dict[str, Any]:
        try:
            read: dict[str, Any] = json.loads((self._directory / _INDEX).read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise GenerationError(f"{self._directory / _INDEX} cannot be read: {error}") from error
        return read

    def _write_index(self, index: dict[str, Any]) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=self._directory, prefix=".index.")
        with os.fdopen(descriptor, "w") as file:
            json.dump(index, file, indent=2, sort_keys=True)
            file.flush()
            # A power cut leaves the old one or the new.
            os.fsync(file.fileno())
        Path(name).replace(self._directory / _INDEX)
        self._index = index


def described(path: Path) -> Entry:
    """Return what is at a path. Nobody else's time of writing counts."""
    there = path.lstat()
    owner = f"{there.st_uid}:{there.st_gid}"
    if path.is_symlink():
        return ("link", owner, str(path.readlink()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ("file", owner, oct(stat.S_IMODE(there.st_mode)), digest)


def put(source: Path, place: Path) -> None:
    """Copy a file or link with its mode and owner; a power cut leaves the old one or the new."""
    there = source.lstat()
    beside = place.with_name(f".{place.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        if source.is_symlink():
            beside.symlink_to(source.readlink())
        else:
            with source.open("rb") as old, beside.open("xb") as new:
                os.fchmod(new.fileno(), 0o600)
                shutil.copyfileobj(old, new)
                new.flush()
                os.fsync(new.fileno())
        os.chown(beside, there.st_uid, there.st_gid, follow_symlinks=False)
        if not source.is_symlink():
            beside.chmod(stat.S_IMODE(there.st_mode))
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def matches(path: str, patterns: Sequence[str]) -> bool:
    """Return whether a path matches one of these shell patterns."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


def do(arguments: Mapping[str, Any], generations: Generations) -> dict[str, Any]:
    """Do what is asked for; return the module's result."""
    checking, verb = bool(arguments["_ansible_check_mode"]), arguments["do"]
    if verb == "begin":
        wanted = not generations.serving and Path(arguments["when"]).exists()
        return {"changed": wanted and (checking or generations.record())}
    if verb == "record":
        return {"changed": not checking and generations.record()}
    if verb == "settle":
        return {"changed": not checking and generations.settle()}
    only = arguments.get("only")
    name = generations.target(only)
    if not name:
        return {"changed": False, "target": "", "kept_at": "", "tree": "", "paths": [], "files": []}
    files = generations.files(name)
    paths = generations.differing(name)
    if verb == "restore" and paths and not checking:
        (generations.put_back if only else generations.restore)(name, arguments.get("leave") or ())
    return {
        "changed": verb == "restore" and bool(paths),
        "target": name,
        "kept_at": generations.kept_at(name),
        "tree": str(generations.tree(name)),
        "paths": paths,
        "files": files,
    }


def main() -> None:
    """Do it."""
    arguments = json.loads(ARGUMENTS)
    try:
        result = do(arguments, Generations(Path(arguments["directory"]), arguments["paths"]))
    except (GenerationError, OSError) as error:
        result = {"changed": False, "failed": True, "msg": str(error)}
    print(json.dumps(result))
    if "failed" in result:
        sys.exit(1)


if __name__ == "__main__":
    main()
