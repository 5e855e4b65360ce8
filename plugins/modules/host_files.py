"""Files, directories and links of a host, as many as there are, in one go (docs/adr/0023).

Used through the action of the same name, which reads and renders on the control node; its
documentation says what a task may ask for. This is what runs on the host.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_files
short_description: Have files, directories and links on a host
description:
  - Does for many of them at once what the modules copy, template and file do for one, in their way. What
    is as it should be is left alone; a file is written beside its place, checked and renamed.
  - In check mode nothing is written, and a parent that is not there yet is no error.
options:
  files:
    description: What there shall be, in this order. Each has a C(path) and one of the others.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Where it shall be., type: path, required: true}
      src: {description: "A file, or a directory with all that is in it, of the role's files or by its path.", type: path}
      template: {description: A template of the role., type: path}
      content: {description: The text itself., type: str}
      target: {description: What a symbolic link shall point to., type: str}
      state: {description: "C(directory) or C(absent), where none of the above is given.", type: str}
      mode: {description: "Its mode; else 0644, and 0755 for directories.", type: str}
      owner: {description: Its owner., type: str, default: root}
      group: {description: Its group., type: str, default: root}
      vars: {description: Variables for the template., type: dict}
      validate: {description: "A command that must succeed before a changed file gets its name; %s is the new one.", type: str}
"""

RETURN = """
paths: {description: The paths that have changed., type: list, elements: str, returned: always}
"""


class Host:
    """The host's file system, changed by one entry after the other."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.paths: list[str] = []
        self.diffs: list[dict[str, str]] = []

    def have(self, entry: dict[str, Any]) -> None:
        """Make it so, and note whether that has changed anything."""
        changed = getattr(self, f"_have_{entry['state']}")(entry)
        if entry["state"] != "absent" and os.path.lexists(entry["path"]):
            attributes = self.module.load_file_common_arguments(entry)
            if entry["state"] == "link":
                attributes["mode"] = None  # a link has none of its own
            changed |= self.module.set_fs_attributes_if_different(attributes, False)
        if changed:
            self.paths.append(entry["path"])

    def _have_absent(self, entry: dict[str, Any]) -> bool:
        path = entry["path"]
        if not os.path.lexists(path):
            return False
        self._note(path, "present\n", "absent\n")
        if not self.module.check_mode:
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
        return True

    def _have_directory(self, entry: dict[str, Any]) -> bool:
        path = entry["path"]
        if os.path.isdir(path):
            return False
        if os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there, and is no directory")
        self._note(path, "absent\n", "directory\n")
        if not self.module.check_mode:
            os.makedirs(path)
        return True

    def _have_link(self, entry: dict[str, Any]) -> bool:
        path, target = entry["path"], entry["target"]
        before = os.readlink(path) if os.path.islink(path) else None
        if before == target:
            return False
        if before is None and os.path.lexists(path):
            self.module.fail_json(msg=f"{path} is there, and is no symbolic link")
        self._note(path, f"{before or 'absent'}\n", f"{target}\n")
        if not self.module.check_mode:
            # Renamed into its place: there is no moment without one.
            beside = f"{path}.{os.getpid()}.part"
            os.symlink(target, beside)
            os.rename(beside, path)
        return True

    def _have_file(self, entry: dict[str, Any]) -> bool:
        path, content = entry["path"], base64.b64decode(entry["content"])
        before = b""
        if os.path.isdir(path):
            self.module.fail_json(msg=f"{path} is there, and is a directory")
        if os.path.lexists(path):
            with open(path, "rb") as file:
                before = file.read()
            if before == content and not os.path.islink(path):
                return False
        self._note(path, before.decode(errors="replace"), content.decode(errors="replace"))
        if not self.module.check_mode:
            self._write(entry, content)
        return True

    def _write(self, entry: dict[str, Any], content: bytes) -> None:
        path = entry["path"]
        # Where what is to be kept from others may lie, and on the same file system if that is not.
        descriptor, new = tempfile.mkstemp(dir=self.module.tmpdir)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            if entry.get("validate"):
                code, out, err = self.module.run_command(entry["validate"] % new)
                if code:
                    self.module.fail_json(
                        msg=f"{path} was left as it is: {(err + out).strip()}", rc=code, path=path
                    )
            if os.path.islink(path):
                os.unlink(path)
            # Owner and mode before the name, so that nobody reads it meanwhile.
            attributes = self.module.load_file_common_arguments(entry | {"path": new})
            self.module.set_fs_attributes_if_different(attributes, False)
            self.module.atomic_move(new, path, keep_dest_attrs=False)
        finally:
            if os.path.exists(new):
                os.unlink(new)

    def _note(self, path: str, before: str, after: str) -> None:
        header = {"before_header": path, "after_header": path}
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
