#!/usr/bin/python3
"""The systemd units of a role, enabled, started and stopped in one go (docs/adr/0023)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Ansible writes the arguments into these two lines and sends the file as it is (a "JSONARGS
# module"). With Ansible's module_utils a host would compile thousands of lines anew at each task.
# <<INCLUDE_ANSIBLE_MODULE_JSON_ARGS>>
ARGUMENTS = "<<INCLUDE_ANSIBLE_MODULE_COMPLEX_ARGS>>"

DOCUMENTATION = """
module: host_units
short_description: Enable, start, stop, restart and reload units of systemd
description:
  - Does for several units what the module systemd_service does for one, in their order.
  - systemd is made to read its files anew where it says itself that one of these units or of those
    with a like name has changed on the disk, and only then.
  - A unit that has failed is forgiven before it is started, as one that has used up its start limit
    would refuse what may work now.
  - In check mode a unit that is not there is no error, as nothing may be installed yet. Nor is it
    ever one that shall be stopped and disabled.
options:
  units:
    description: What there shall be.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The whole name, with its suffix.
        type: str
        required: true
      enabled:
        description: Whether it starts at boot; left as it is without it.
        type: bool
      state:
        description:
          - C(restarted) and C(reloaded) start a unit that does not run.
          - Left as it is without it.
        type: str
        choices: [started, stopped, restarted, reloaded]
      files:
        description:
          - What the unit is set up with, each as C(path) and C(source), where what it shall hold
            lies on this host. A source that is not there says nothing. A unit that runs and shall
            be C(started) is restarted where one differs that does not say C(restarts=false).
          - Where a unit that ran does not start any more, what they were before comes back, and it
            is started again with that. The task fails then with the end of its log.
        type: list
        elements: dict
      excused_by:
        description: A file that says, where it exists, that the unit cannot start for a reason of
          its own. Then its files stay as they are, and it is one of C(failures).
        type: str
  hold:
    description:
      - Whether to leave units alone that run and would be restarted. They are C(pending), and none
        of their files is touched.
    type: bool
    default: false
  go_on:
    description:
      - Whether to go on with the next unit after one that cannot be had. C(failures) then tells
        what the task would have failed with. Not after one that ran and does not start any more;
        the next would fare likewise.
    type: bool
    default: false
"""

RETURN = """
units:
  description:
    - What systemd says of each unit afterwards, by name. One that is not there is left out.
  type: dict
  returned: always
before:
  description: The same before anything was changed.
  type: dict
  returned: always
names:
  description: The units that have changed.
  type: list
  elements: str
  returned: always
failures:
  description: What was in the way, by unit.
  type: dict
  returned: always
pending:
  description: The units that C(hold) has left alone.
  type: list
  elements: str
  returned: always
"""

PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "MainPID")

#: What may be said of a unit, and what its state may be.
PARTS = {"name", "enabled", "state", "files", "excused_by"}
#: What may be said of one of its files; the first two have to be.
FILE_PARTS = ("path", "source", "restarts")
#: What stands beside a source while its unit may run without what has come into the file's place.
BEGUN = ".begun"
#: Lines of a unit's log that tell why it did not start.
LOG_LINES = 15
STATES = ("started", "stopped", "restarted", "reloaded")
#: As systemctl(1) has it: with these is-enabled succeeds.
ENABLED = {"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"}
RUNNING = {"active", "reloading", "refreshing", "activating"}

Unit = dict[str, str]


class UnitError(Exception):
    """A unit cannot be what it shall be; the text says why."""


class RefusedError(UnitError):
    """What a unit was set up with has not worked: it is no use to try that with the next one."""


class Host:
    """The host's systemd, asked and told with systemctl."""

    def __init__(self, *, check_mode: bool, hold: bool = False) -> None:
        self.check_mode = check_mode
        self.hold = hold
        self.names: list[str] = []
        self.pending: list[str] = []

    def read(self, names: list[str]) -> dict[str, Unit]:
        """Return the properties of units by the names that were asked for."""
        out = self._tell("show", f"--property={','.join(PROPERTIES)}", "--", *names)
        blocks = [block.strip().splitlines() for block in out.split("\n\n") if block.strip()]
        return {
            name: dict(line.split("=", 1) for line in block)
            for name, block in zip(names, blocks, strict=True)
        }

    def is_outdated(self, names: list[str], units: dict[str, Unit]) -> bool:
        """Return whether systemd knows something else than what is on the disk.

        Not these units alone are looked at but also nginx-a.service with nginx.service: a timer
        starts a service that has no entry of its own. One that systemd has looked for in vain may
        have come since.
        """
        if any(units[name]["LoadState"] == "not-found" for name in names):
            return True
        families = {re.split("[-.@]", name)[0] + "*" for name in units}
        said = self._tell("show", "--property=NeedDaemonReload", "--", *sorted(families))
        return "NeedDaemonReload=yes" in said

    def reread(self) -> None:
        """Let systemd read its files anew."""
        self._tell("daemon-reload")

    def have(self, wanted: dict[str, Any], unit: Unit) -> None:
        """Make a unit what it shall be."""
        name, enabled, state = wanted["name"], wanted.get("enabled"), wanted.get("state")
        if unit["LoadState"] == "not-found":
            if is_needed(wanted) and not self.check_mode:
                raise UnitError(f"There is no unit {name} on this host.")
            return
        if unit["LoadState"] == "masked" and is_needed(wanted):
            raise UnitError(f"{name} is masked; `systemctl unmask {name}` lets it start again.")
        if enabled is not None and enabled != (unit["UnitFileState"] in ENABLED):
            self._change("enable" if enabled else "disable", name)
        serves = unit["ActiveState"] in RUNNING
        differing = [file for file in wanted.get("files", ()) if differs(file)]
        mark = Mark(wanted.get("files", ()))
        if state == "started" and (
            mark.is_there or any(file.get("restarts", True) for file in differing)
        ):
            state = "restarted"
        if not (serves and state == "restarted"):
            self._replace(name, differing, unit)
            self._have_state(name, state, unit)
            if not serves and not self.check_mode:
                mark.take_away()
        elif self.hold:
            self.pending.append(name)
        elif self.check_mode:
            self._note(name)
        else:
            mark.put()
            self._restart(wanted, self._replace(name, differing, unit), unit, mark)

    def _replace(self, name: str, differing: list[dict[str, Any]], unit: Unit) -> Replaced | None:
        """Let a unit's files be what their sources are; None if nothing was written."""
        if not differing:
            return None
        self._note(name)
        if self.check_mode:
            return None
        files = Replaced(differing)
        self._reread_if_outdated(name, unit)
        return files

    def _restart(
        self, wanted: dict[str, Any], files: Replaced | None, unit: Unit, mark: Mark
    ) -> None:
        """Start a unit that runs anew; if it does not start, let it have what it had before."""
        name = wanted["name"]
        try:
            self._have_state(name, "restarted", unit)
            mark.take_away()
        except UnitError as error:
            mark.take_away()
            if "excused_by" in wanted and Path(wanted["excused_by"]).exists():
                raise
            log = self._log(name)
            told = [str(error)]
            if files is not None:
                told.append(self._put_back(name, files, unit))
            raise RefusedError(
                f"{name} does not start any more, and those after it were left alone. Correct what"
                f" was changed, and run the playbook again. {' '.join(told)}\n"
                f"The end of its log:\n{log}"
            ) from error

    def _put_back(self, name: str, files: Replaced, unit: Unit) -> str:
        """Start a unit with what it had before; return what to say of that."""
        files.put_back()
        what = f"What had changed in {', '.join(str(path) for path in files.before)} is as before,"
        try:
            self._reread_if_outdated(name, unit)
            self._tell("reset-failed", "--", name)
            self._tell("restart", "--", name)
        except UnitError as error:
            return f"{what} but it does not start with that either: {error}"
        return f"{what} and it serves with that again."

    def _have_state(self, name: str, state: str | None, unit: Unit) -> None:
        running = unit["ActiveState"] in RUNNING
        if unit["ActiveState"] == "failed" and state not in (None, "stopped"):
            self._change("reset-failed", name)
        if state == "stopped":
            if running or unit["ActiveState"] == "deactivating":
                self._change("stop", name)
        elif state in ("restarted", "reloaded"):
            self._change(state.removesuffix("ed") if running else "start", name)
        elif state == "started" and not running:
            self._change("start", name)

    def _reread_if_outdated(self, name: str, unit: Unit) -> None:
        if self.is_outdated([name], {name: unit}):
            self.reread()

    def _change(self, verb: str, name: str) -> None:
        self._note(name)
        if not self.check_mode:
            self._tell(verb, "--", name)

    def _note(self, name: str) -> None:
        if name not in self.names:
            self.names.append(name)

    def _log(self, name: str) -> str:
        options = ("--no-pager", f"--lines={LOG_LINES}", "--output=cat", f"--unit={name}")
        try:
            return self._run("journalctl", *options)
        except (OSError, UnitError) as error:
            return f"(it cannot be read: {error})"

    def _tell(self, *arguments: str) -> str:
        return self._run("systemctl", *arguments)

    def _run(self, *command: str) -> str:
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
            why = (done.stderr or done.stdout).strip()
            raise UnitError(f"{' '.join(command)}: {why}")
        return done.stdout


class Mark:
    """Tells a later run that this one may have ended between a file's new text and the restart.

    A unit that runs looks the same with the old text and with the new one.
    """

    def __init__(self, files: Sequence[dict[str, Any]]) -> None:
        sources = [file["source"] for file in files if file.get("restarts", True)]
        self.path = Path(sources[0] + BEGUN) if sources else None

    @property
    def is_there(self) -> bool:
        """Whether a run has begun to start the unit anew and not ended that."""
        return self.path is not None and self.path.exists()

    def put(self) -> None:
        """Begin."""
        if self.path is not None:
            self.path.touch(mode=0o600)

    def take_away(self) -> None:
        """What runs has been started with what is in the files, or does not run."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Replaced:
    """Files that have got what is in their sources; what was in them can come back.

    Attributes:
        before: what was in each, None where there was none.
    """

    def __init__(self, files: list[dict[str, Any]]) -> None:
        self.before = {Path(file["path"]): read(Path(file["path"])) for file in files}
        try:
            for file in files:
                source = Path(file["source"])
                write(Path(file["path"]), source.read_bytes(), source)
        except OSError as error:
            self.put_back()
            raise UnitError(f"{error.filename} was left as it is: {error}") from error

    def put_back(self) -> None:
        """Let each be what it was."""
        for path, content in self.before.items():
            if content is None:
                path.unlink(missing_ok=True)
            else:
                write(path, content, path)


def differs(file: dict[str, Any]) -> bool:
    """Return whether a file does not hold what its source does."""
    wanted = read(Path(file["source"]))
    return wanted is not None and wanted != read(Path(file["path"]))


def read(path: Path) -> bytes | None:
    """Return what is in a file, None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write(path: Path, content: bytes, like: Path) -> None:
    """Write a file with the owner and the mode of another; a power cut leaves it old or new."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    new = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        there = like.stat()
        os.chown(new, there.st_uid, there.st_gid)
        shutil.copymode(like, new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def is_needed(wanted: dict[str, Any]) -> bool:
    """Return whether a unit has to be there for this; one that is not there is stopped."""
    return wanted.get("enabled") is True or wanted.get("state") not in (None, "stopped")


def read_wanted(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the units that are asked for; raise UnitError where one cannot be understood."""
    wanted: list[dict[str, Any]] = arguments["units"]
    for one in wanted:
        if "name" not in one or not PARTS.issuperset(one):
            raise UnitError(
                f"A unit has a name, and may have {', '.join(sorted(PARTS - {'name'}))}: {one}"
            )
        if one.get("state", "started") not in STATES:
            raise UnitError(
                f"{one['name']} cannot be {one['state']}; it may be {', '.join(STATES)}"
            )
        if not isinstance(one.get("enabled", True), bool):
            raise UnitError(f"{one['name']}: enabled is true or false, not {one['enabled']}")
        for file in one.get("files", ()):
            if not set(FILE_PARTS[:2]) <= set(file) <= set(FILE_PARTS):
                raise UnitError(f"{one['name']}: a file has path and source: {file}")
    return wanted


def present(units: dict[str, Unit]) -> dict[str, Unit]:
    """Return those that are there."""
    return {name: one for name, one in units.items() if one["LoadState"] != "not-found"}


def have_all(host: Host, wanted: list[dict[str, Any]], *, go_on: bool) -> dict[str, Any]:
    """Make all units what they shall be; return the module's result."""
    names = list(dict.fromkeys(one["name"] for one in wanted))
    failures: dict[str, str] = {}
    units = host.read(names) if names else {}
    needed = [one["name"] for one in wanted if is_needed(one)]
    if names and not host.check_mode and host.is_outdated(needed, units):
        host.reread()
        units = host.read(names)
    before = units
    for one in wanted:
        try:
            host.have(one, units[one["name"]])
        except UnitError as error:
            if not go_on or isinstance(error, RefusedError):
                raise
            failures[one["name"]] = str(error)
    if host.names and not host.check_mode:
        units = host.read(names)
    return {
        "before": present(before),
        "units": present(units),
        "failures": failures,
        "pending": host.pending,
    }


def main() -> None:
    """Have all of them."""
    arguments = json.loads(ARGUMENTS)
    host = Host(check_mode=arguments["_ansible_check_mode"], hold=arguments.get("hold", False))
    try:
        result = have_all(host, read_wanted(arguments), go_on=arguments.get("go_on", False))
    except UnitError as error:
        result = {"failed": True, "msg": str(error)}
    print(json.dumps(result | {"changed": bool(host.names), "names": host.names}))
    if "failed" in result:
        sys.exit(1)


if __name__ == "__main__":
    main()
