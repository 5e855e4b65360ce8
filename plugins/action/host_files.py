"""The control node's half of the module host_files: reads and renders what the host shall have.

One question to the host instead of two for each file: that is most of a deployment's time
(docs/adr/0023).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template

#: Where it is noted on a host what a play has changed and not come to the end of.
_UNDONE = "/var/lib/heartcode/undone"

#: What an entry may say of what there shall be; one of them.
_KINDS = ("src", "template", "content", "target", "state")
#: What `state` may be; files and links are asked for by what is in them.
_STATES = ("directory", "absent")
_ATTRIBUTES = ("mode", "owner", "group")
_KNOWN = {"path", "vars", "validate", *_KINDS, *_ATTRIBUTES}


class ActionModule(ActionBase):  # type: ignore[misc]  # Ansible has no types
    """Turn the task's entries into contents, and have the module write them."""

    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; `paths` are those that have changed."""
        super().run(tmp, task_vars)
        entries = self._task.args.get("files")
        if not isinstance(entries, list) or set(self._task.args) != {"files"}:
            raise AnsibleActionFail("host_files takes files, a list of what there shall be")
        files = [one for entry in entries for one in self._resolved(entry, task_vars or {})]
        if not files:
            return {"changed": False, "paths": []}
        result: dict[str, Any] = self._execute_module(
            module_args={"files": files, "undone": self._undone()}, task_vars=task_vars
        )
        # Whole files, in a form that nobody reads.
        result.pop("invocation", None)
        return result

    def _undone(self) -> str | None:
        """Return the file of the role's notes; what tasks of no role write nobody takes in."""
        role = self._task._role  # noqa: SLF001 - there is no other way to it
        return f"{_UNDONE}/{role.get_name()}" if role else None

    def _resolved(
        self, entry: Mapping[str, Any], task_vars: dict[str, Any]
    ) -> Iterator[dict[str, Any]]:
        """Yield what the module is told of an entry, and of all that is in its directory."""
        kinds = [kind for kind in _KINDS if kind in entry]
        if "path" not in entry or len(kinds) != 1 or not _KNOWN.issuperset(entry):
            raise AnsibleActionFail(
                f"host_files: {sorted(entry)} is not a path with one of {', '.join(_KINDS)}, and"
                f" of {', '.join(sorted(_KNOWN - {'path', *_KINDS}))} what it needs"
            )
        (kind,) = kinds
        if kind == "state" and entry["state"] not in _STATES:
            raise AnsibleActionFail(
                f"host_files: {entry['path']} cannot be {entry['state']}; as a state it may be"
                f" {' or '.join(_STATES)}"
            )
        state = {"target": "link", "state": entry.get("state")}.get(kind, "file")
        told = {
            "path": entry["path"],
            "state": state,
            "mode": entry.get("mode", "0755" if state == "directory" else "0644"),
            "owner": entry.get("owner", "root"),
            "group": entry.get("group", "root"),
            "validate": entry.get("validate"),
        }
        if kind == "src":
            yield from self._read(entry["src"], told)
        elif kind == "target":
            yield told | {"target": entry["target"]}
        elif kind == "state":
            yield told
        else:
            text = self._render(entry, task_vars) if kind == "template" else str(entry["content"])
            yield told | {"content": _encoded(text.encode())}

    def _read(self, source: str, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
        found = Path(self._find_needle("files", source))
        if found.is_file():
            yield told | {"content": _encoded(found.read_bytes())}
            return
        for path in (found, *sorted(found.rglob("*"))):
            one = told | {"path": str(Path(told["path"]) / path.relative_to(found))}
            if path.is_dir():
                yield one | {"state": "directory", "mode": "0755"}
            else:
                yield one | {"content": _encoded(path.read_bytes())}

    def _render(self, entry: Mapping[str, Any], task_vars: dict[str, Any]) -> str:
        """Render a template as the action template does."""
        source = self._find_needle("templates", entry["template"])
        places = [*task_vars.get("ansible_search_path", []), str(Path(source).parent)]
        templar = self._templar.copy_with_new_env(
            searchpath=[where for place in places for where in (f"{place}/templates", place)],
            available_variables={"ansible_managed": "Ansible managed"}
            | task_vars
            | entry.get("vars", {}),
        )
        text = trust_as_template(self._loader.get_text_file_contents(source))
        rendered = templar.template(
            text, escape_backslashes=False, overrides={"trim_blocks": True, "lstrip_blocks": False}
        )
        return "" if rendered is None else str(rendered)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()
