#!/usr/bin/python3
"""The systemd units of a role, enabled, started and stopped in one go (docs/adr/0023)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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
  go_on:
    description:
      - Whether to go on with the next unit after one that cannot be had. C(failures) then tells
        what the task would have failed with.
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
"""

PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "MainPID")

#: What may be said of a unit, and what its state may be.
PARTS = {"name", "enabled", "state"}
STATES = ("started", "stopped", "restarted", "reloaded")
#: As systemctl(1) has it: with these is-enabled succeeds.
ENABLED = {"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"}
RUNNING = {"active", "reloading", "refreshing", "activating"}

Unit = dict[str, str]


class UnitError(Exception):
    """A unit cannot be what it shall be; the text says why."""


class Host:
    """The host's systemd, asked and told with systemctl."""

    def __init__(self, *, check_mode: bool) -> None:
        self.check_mode = check_mode
        self.names: list[str] = []

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

    def _change(self, verb: str, name: str) -> None:
        if name not in self.names:
            self.names.append(name)
        if not self.check_mode:
            self._tell(verb, "--", name)

    def _tell(self, *arguments: str) -> str:
        done = subprocess.run(
            ["systemctl", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=os.environ | {"LC_ALL": "C.UTF-8"},
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            why = (done.stderr or done.stdout).strip()
            raise UnitError(f"systemctl {' '.join(arguments)}: {why}")
        return done.stdout


def is_needed(wanted: dict[str, Any]) -> bool:
    """Return whether a unit has to be there for this; one that is not there is stopped."""
    return wanted.get("enabled") is True or wanted.get("state") not in (None, "stopped")


def read_wanted(arguments: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the units that are asked for; raise UnitError where one cannot be understood."""
    wanted: list[dict[str, Any]] = arguments["units"]
    for one in wanted:
        if "name" not in one or not PARTS.issuperset(one):
            raise UnitError(f"A unit has a name, and may have enabled and state: {one}")
        if one.get("state", "started") not in STATES:
            raise UnitError(
                f"{one['name']} cannot be {one['state']}; it may be {', '.join(STATES)}"
            )
        if not isinstance(one.get("enabled", True), bool):
            raise UnitError(f"{one['name']}: enabled is true or false, not {one['enabled']}")
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
            if not go_on:
                raise
            failures[one["name"]] = str(error)
    if host.names and not host.check_mode:
        units = host.read(names)
    return {"before": present(before), "units": present(units), "failures": failures}


def main() -> None:
    """Have all of them."""
    arguments = json.loads(ARGUMENTS)
    host = Host(check_mode=arguments["_ansible_check_mode"])
    try:
        result = have_all(host, read_wanted(arguments), go_on=arguments.get("go_on", False))
    except UnitError as error:
        result = {"failed": True, "msg": str(error)}
    print(json.dumps(result | {"changed": bool(host.names), "names": host.names}))
    if "failed" in result:
        sys.exit(1)


if __name__ == "__main__":
    main()
