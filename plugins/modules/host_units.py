"""The systemd units of a role, enabled, started and stopped in one go (docs/adr/0023)."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_units
short_description: Enable, start, stop, restart and reload units of systemd
description:
  - Does for several units what the module systemd_service does for one, in their order.
  - systemd is made to read its files anew where it says itself that a unit has changed on the disk,
    and only then.
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

#: As systemctl(1) has it: with these is-enabled succeeds.
ENABLED = {"enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"}
RUNNING = {"active", "reloading", "refreshing", "activating"}

Unit = dict[str, str]


class UnitError(Exception):
    """A unit cannot be what it shall be; the text says why."""


class Host:
    """The host's systemd, asked and told with systemctl."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.program: str = module.get_bin_path("systemctl", required=True)
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

        All units are asked, not these alone: a timer starts a service that has no entry of its own.
        One that systemd has looked for in vain may have come since.
        """
        if any(units[name]["LoadState"] == "not-found" for name in names):
            return True
        return "NeedDaemonReload=yes" in self._tell("show", "--property=NeedDaemonReload", "*")

    def reread(self) -> None:
        """Let systemd read its files anew."""
        self._tell("daemon-reload")

    def have(self, wanted: dict[str, Any], unit: Unit) -> None:
        """Make a unit what it shall be."""
        name, enabled, state = wanted["name"], wanted["enabled"], wanted["state"]
        if unit["LoadState"] == "not-found":
            if is_needed(wanted) and not self.module.check_mode:
                raise UnitError(f"There is no unit {name} on this host.")
            return
        if unit["LoadState"] == "masked" and is_needed(wanted):
            raise UnitError(f"{name} is masked; `systemctl unmask {name}` lets it start again.")
        if enabled is not None and enabled != (unit["UnitFileState"] in ENABLED):
            self._change("enable" if enabled else "disable", name)
        running = unit["ActiveState"] in RUNNING
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
        if not self.module.check_mode:
            self._tell(verb, "--", name)

    def _tell(self, *arguments: str) -> str:
        code, out, err = self.module.run_command([self.program, *arguments])
        if code:
            raise UnitError(f"systemctl {' '.join(arguments)}: {(err or out).strip()}")
        return str(out)


def is_needed(wanted: dict[str, Any]) -> bool:
    """Return whether a unit has to be there for this; one that is not there is stopped."""
    return wanted["enabled"] is True or wanted["state"] not in (None, "stopped")


def main() -> None:
    """Have all of them."""
    unit = {
        "name": {"type": "str", "required": True},
        "enabled": {"type": "bool"},
        "state": {"type": "str", "choices": ["started", "stopped", "restarted", "reloaded"]},
    }
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "dict", "required": True, "options": unit},
            "go_on": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = module.params["units"]
    host = Host(module)
    names = list(dict.fromkeys(one["name"] for one in wanted))
    failures: dict[str, str] = {}
    try:
        units = host.read(names) if names else {}
        needed = [one["name"] for one in wanted if is_needed(one)]
        if names and not module.check_mode and host.is_outdated(needed, units):
            host.reread()
            units = host.read(names)
        for one in wanted:
            try:
                host.have(one, units[one["name"]])
            except UnitError as error:
                if not module.params["go_on"]:
                    raise
                failures[one["name"]] = str(error)
        if host.names and not module.check_mode:
            units = host.read(names)
    except UnitError as error:
        module.fail_json(msg=str(error), names=host.names)
    present = {name: one for name, one in units.items() if one["LoadState"] != "not-found"}
    module.exit_json(changed=bool(host.names), units=present, names=host.names, failures=failures)


if __name__ == "__main__":
    main()
