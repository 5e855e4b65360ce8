#!/usr/bin/python3
"""Files, directories and links of a host, as many as there are, in one go (docs/adr/0023).

Used through the action of the same name, which reads and renders on the control node; its
documentation says what a task may ask for. This is what runs on the host.
"""

from __future__ import annotations

import base64
import grp
import json
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Ansible writes the arguments into these two lines and sends the file as it is (a "JSONARGS
# module"). With Ansible's module_utils a host would compile thousands of lines anew at each task.
# <<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>
ARGUMENTS = "<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>"

DOCUMENTATION = """
module: host_files
short_description: Have files, directories and links on a host
description:
  - Does for many of them at once what the modules copy, template and file do for one, in their
    way. What is as it should be is left alone; a file is written beside its place, checked and
    renamed.
  - In check mode nothing is written, and a parent that is not there yet is no error.
  - What is about to change is noted in C(undone) before. What an earlier run has noted there counts
    as changed, since that run may have ended before anybody took it in. The play's end forgets it.
options:
  files:
    description: What there shall be, in this order. Each has a C(path) and one of the others.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Where it shall be.
        type: path
        required: true
      src:
        description: A file of the role's files or by its path, or a directory with all in it.
        type: path
      template:
        description: A template of the role.
        type: path
      content:
        description: The text itself.
        type: str
      target:
        description: What a symbolic link shall point to.
        type: str
      state:
        description: C(directory) or C(absent), where none of the above is given.
        type: str
      mode:
        description: Its mode; else 0644, and 0755 for directories.
        type: str
      owner:
        description: Its owner.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: root
      vars:
        description: Variables for the template.
        type: dict
      validate:
        description: A command that must succeed before a changed file, C(%s), gets its name.
        type: str
  undone:
    description: The file of these notes; the action names it after the task's role.
    type: path
"""

RETURN = """
paths:
  description: The paths that have changed.
  type: list
  elements: str
  returned: always
"""


class HostError(Exception):
    """Something cannot be as it shall be; the text says why."""


class Host:
    """The host's file system, changed by one entry after the other."""

    def __init__(self, *, check_mode: bool, undone: Path | None = None) -> None:
        self.check_mode = check_mode
        self.undone = undone
        #: What a run has changed that may not have come to its end.
        self.noted = read_lines(undone) if undone else set()
        self.paths: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def have(self, entry: dict[str, Any]) -> None:
        """Make it so, and note whether that has changed anything."""
        path = Path(entry["path"])
        changed = getattr(self, f"_have_{entry['state']}")(path, entry)
        if entry["state"] != "absent" and os.path.lexists(path):
            changed |= self._set_attributes(path, entry)
        if changed or str(path) in self.noted:
            self.paths.append(str(path))

    def _note_undone(self, path: Path) -> None:
        """Write down what is about to change; a power cut comes before that or after."""
        if self.undone is None or self.check_mode or str(path) in self.noted:
            return
        self.undone.parent.mkdir(parents=True, exist_ok=True)
        with self.undone.open("a") as file:
            file.write(f"{path}\n")
            file.flush()
            os.fsync(file.fileno())

    def _have_absent(self, path: Path, _: dict[str, Any]) -> bool:
        if not os.path.lexists(path):
            return False
        self._note(path, "present\n", "absent\n")
        if not self.check_mode:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        return True

    def _have_directory(self, path: Path, _: dict[str, Any]) -> bool:
        if path.is_dir():
            return False
        if os.path.lexists(path):
            raise HostError(f"{path} is there, and is no directory")
        self._note(path, "absent\n", "directory\n")
        if not self.check_mode:
            path.mkdir(parents=True)
        return True

    def _have_link(self, path: Path, entry: dict[str, Any]) -> bool:
        target = entry["target"]
        before = str(path.readlink()) if path.is_symlink() else None
        if before == target:
            return False
        if before is None and os.path.lexists(path):
            raise HostError(f"{path} is there, and is no symbolic link")
        self._note(path, f"{before or 'absent'}\n", f"{target}\n")
        if not self.check_mode:
            # Renamed into its place: there is no moment without one.
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.symlink_to(target)
            beside.replace(path)
        return True

    def _have_file(self, path: Path, entry: dict[str, Any]) -> bool:
        content = base64.b64decode(entry["content"])
        if path.is_dir():
            raise HostError(f"{path} is there, and is a directory")
        before = path.read_bytes() if path.exists() else b""
        if path.exists() and before == content and not path.is_symlink():
            return False
        self._note(path, before.decode(errors="replace"), content.decode(errors="replace"))
        if not self.check_mode:
            self._write(path, entry, content)
        return True

    def _write(self, path: Path, entry: dict[str, Any], content: bytes) -> None:
        # Beside its place, hidden from programs that read whole directories, and for root alone.
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        new = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                # A power cut leaves the old content or the new, and nothing between.
                file.flush()
                os.fsync(file.fileno())
            if entry.get("validate"):
                validate(shlex.split(entry["validate"] % new), path)
            # Owner and mode before the name: nobody else reads it meanwhile.
            self._set_attributes(new, entry)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def _set_attributes(self, path: Path, entry: dict[str, Any]) -> bool:
        """Set owner, group and mode where they differ; return whether they do."""
        there = path.lstat()
        owner, group = user_id(entry["owner"]), group_id(entry["group"])
        changed = False
        if (there.st_uid, there.st_gid) != (owner, group):
            changed = True
            self._note_undone(Path(entry["path"]))
            if not self.check_mode:
                os.lchown(path, owner, group)
        # A link has no mode of its own. After the owner, as chown(2) may take bits away.
        if entry["state"] != "link" and stat.S_IMODE(there.st_mode) != int(entry["mode"], 8):
            changed = True
            self._note_undone(Path(entry["path"]))
            if not self.check_mode:
                path.chmod(int(entry["mode"], 8))
        return changed

    def _note(self, path: Path, before: str, after: str) -> None:
        self._note_undone(path)
        header = {"before_header": str(path), "after_header": str(path)}
        self.diffs.append({"before": before, "after": after, **header})


def read_lines(path: Path) -> set[str]:
    """Return the lines of a file, none where there is none."""
    try:
        return set(path.read_text().splitlines())
    except FileNotFoundError:
        return set()


def validate(command: list[str], path: Path) -> None:
    """Run a command; raise HostError with what it says if it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        said = (done.stderr + done.stdout).strip()
        raise HostError(f"{path} was left as it is: {said}")


def user_id(name: str | int) -> int:
    """Return the number of a user that is given by name or number."""
    if str(name).isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(str(name)).pw_uid
    except KeyError:
        raise HostError(f"There is no user {name}") from None


def group_id(name: str | int) -> int:
    """Return the number of a group that is given by name or number."""
    if str(name).isdecimal():
        return int(name)
    try:
        return grp.getgrnam(str(name)).gr_gid
    except KeyError:
        raise HostError(f"There is no group {name}") from None


def main() -> None:
    """Have all of them."""
    arguments = json.loads(ARGUMENTS)
    undone = arguments.get("undone")
    host = Host(
        check_mode=arguments["_ansible_check_mode"], undone=Path(undone) if undone else None
    )
    failure = None
    for entry in arguments["files"]:
        try:
            host.have(entry)
        except HostError as error:
            failure = str(error)
        except OSError as error:
            # In a dry run the directory that it shall lie in may be planned only.
            if not (host.check_mode and isinstance(error, FileNotFoundError)):
                failure = f"{entry['path']}: {error}"
        if failure:
            break
    result = {"changed": bool(host.paths), "paths": host.paths, "diff": host.diffs}
    if failure:
        result |= {"failed": True, "msg": failure}
    print(json.dumps(result))
    if failure:
        sys.exit(1)


if __name__ == "__main__":
    main()
