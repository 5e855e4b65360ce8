"""Files, directories and links of a host, as many as there are, in one go (docs/adr/0023).

Used through the action of the same name, which reads and renders on the control node; its
documentation says what a task may ask for. This is what runs on the host.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_files
short_description: Have files, directories and links on a host
description:
  - Does for many of them at once what the modules copy, template and file do for one, in their
    way. What is as it should be is left alone; a file is written beside its place, checked and
    renamed.
  - In check mode nothing is written, and a parent that is not there yet is no error.
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
"""

RETURN = """
paths:
  description: The paths that have changed.
  type: list
  elements: str
  returned: always
"""


class Host:
    """The host's file system, changed by one entry after the other."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.paths: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def have(self, entry: dict[str, Any]) -> None:
        """Make it so, and note whether that has changed anything."""
        path = Path(entry["path"])
        changed = getattr(self, f"_have_{entry['state']}")(path, entry)
        if entry["state"] != "absent" and os.path.lexists(path):
            # A link has no mode of its own.
            changed |= self._set_attributes(
                entry | {"mode": None} if entry["state"] == "link" else entry
            )
        if changed:
            self.paths.append(str(path))

    def _have_absent(self, path: Path, _: dict[str, Any]) -> bool:
        if not os.path.lexists(path):
            return False
        self._note(path, "present\n", "absent\n")
        if not self.module.check_mode:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        return True

    def _have_directory(self, path: Path, _: dict[str, Any]) -> bool:
        if path.is_dir():
            return False
        if os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there, and is no directory")
        self._note(path, "absent\n", "directory\n")
        if not self.module.check_mode:
            path.mkdir(parents=True)
        return True

    def _have_link(self, path: Path, entry: dict[str, Any]) -> bool:
        target = entry["target"]
        before = str(path.readlink()) if path.is_symlink() else None
        if before == target:
            return False
        if before is None and os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there, and is no symbolic link")
        self._note(path, f"{before or 'absent'}\n", f"{target}\n")
        if not self.module.check_mode:
            # Renamed into its place: there is no moment without one.
            beside = path.with_name(f"{path.name}.{os.getpid()}.part")
            beside.symlink_to(target)
            beside.rename(path)
        return True

    def _have_file(self, path: Path, entry: dict[str, Any]) -> bool:
        content = base64.b64decode(entry["content"])
        if path.is_dir():
            self.module.fail_json(msg=f"{path} is there, and is a directory")
        before = path.read_bytes() if path.exists() else b""
        if path.exists() and before == content and not path.is_symlink():
            return False
        self._note(path, before.decode(errors="replace"), content.decode(errors="replace"))
        if not self.module.check_mode:
            self._write(path, entry, content)
        return True

    def _write(self, path: Path, entry: dict[str, Any], content: bytes) -> None:
        # In Ansible's own directory, which nobody else reads.
        descriptor, name = tempfile.mkstemp(dir=self.module.tmpdir)
        new = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            if entry.get("validate"):
                code, out, err = self.module.run_command(entry["validate"] % new)
                if code:
                    said = (err + out).strip()
                    self.module.fail_json(msg=f"{path} was left as it is: {said}", rc=code)
            if path.is_symlink():
                path.unlink()
            # Owner and mode before the name: nobody else reads it meanwhile.
            self._set_attributes(entry | {"path": name})
            self.module.atomic_move(name, str(path), keep_dest_attrs=False)
        finally:
            new.unlink(missing_ok=True)

    def _set_attributes(self, entry: dict[str, Any]) -> bool:
        attributes = self.module.load_file_common_arguments(entry)
        return bool(self.module.set_fs_attributes_if_different(attributes, changed=False))

    def _note(self, path: Path, before: str, after: str) -> None:
        header = {"before_header": str(path), "after_header": str(path)}
        self.diffs.append({"before": before, "after": after, **header})


def main() -> None:
    """Have all of them."""
    common = {
        "mode": {"type": "raw"},
        "owner": {"type": "str"},
        "group": {"type": "str"},
        "state": {"type": "str", "choices": ["file", "directory", "link", "absent"]},
        "path": {"type": "path", "required": True},
        "content": {"type": "str"},
        "target": {"type": "str"},
        "validate": {"type": "str"},
    }
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "required": True, "options": common}
        },
        supports_check_mode=True,
    )
    host = Host(module)
    for entry in module.params["files"]:
        try:
            host.have(entry)
        except OSError as error:
            if not (module.check_mode and isinstance(error, FileNotFoundError)):
                module.fail_json(msg=f"{entry['path']}: {error}", path=entry["path"])
    module.exit_json(changed=bool(host.paths), paths=host.paths, diff=host.diffs)


if __name__ == "__main__":
    main()
